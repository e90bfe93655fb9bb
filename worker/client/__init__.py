"""Kafka access for the command line: connection, reader and errors."""
