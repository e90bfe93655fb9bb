"""A Kafka-driven worker that turns generation requests into pictures with SDXL."""

__version__ = "0.1.0"
