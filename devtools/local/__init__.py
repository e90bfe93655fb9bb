"""Servers on a developer's machine without Docker: Apache Kafka, SeaweedFS and librdkafka's embedded broker."""
