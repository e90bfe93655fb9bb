"""The HTTP interface on top of the topics, for programs and people that do not speak Kafka."""
