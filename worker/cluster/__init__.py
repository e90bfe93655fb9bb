"""What the worker knows about the Kafka cluster itself: does it answer, and can the worker work with it."""
