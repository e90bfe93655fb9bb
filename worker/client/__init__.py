"""Kafka connections for the command line: produce, read, and report errors."""
