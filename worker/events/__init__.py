"""Bytes <-> typed events: the schemas, the two framings, and the text headers."""
