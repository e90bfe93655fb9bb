"""Rights that cannot be looked up, or not in time: what a refused call says is missing, as a sentence."""

from __future__ import annotations

from confluent_kafka import KafkaError

_GRANTS = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: ("use the transactional id", "WRITE and DESCRIBE on it"),
    KafkaError.GROUP_AUTHORIZATION_FAILED: ("commit for the consumer group", "READ on it"),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: ("write idempotently", "IDEMPOTENT_WRITE on the cluster"),
}


def missing_right(error: KafkaError) -> str | None:
    """What to grant; None for an error of another kind, and for the topics' rights, which the cluster tells by name."""
    if error.code() not in _GRANTS:
        return None
    use, grant = _GRANTS[error.code()]
    return f"this Kafka user has no right to {use}: grant {grant} ({error.name()})"
