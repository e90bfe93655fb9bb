"""The dispatcher: one queue for a whole fleet in place of one for each worker (`docs/dispatch.md`)."""
