"""The `dead-letters` verbs: look at records that were no requests, and send them again."""
