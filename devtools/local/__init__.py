"""Real parts on a laptop without Docker: Apache Kafka, SeaweedFS and librdkafka's embedded broker."""
