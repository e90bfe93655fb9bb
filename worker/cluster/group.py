"""Who is in the workers' consumer group."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

TIMEOUT_S = 5.0
_GRACE_S = 1.0


def member_names(admin: AdminClient, group: str, timeout_s: float = TIMEOUT_S) -> tuple[str, ...] | None:
    """The client ids of the group's members, which are the workers' `WORKER_ID`s; None where nobody tells.

    Takes `timeout_s` and a second at most. A cluster without a coordinator for the group yet has no member.
    """
    try:
        future = admin.describe_consumer_groups([group], request_timeout=timeout_s)[group]
        members = future.result(timeout_s + _GRACE_S).members
    except (KafkaException, TimeoutError):
        return None
    return tuple(sorted({str(member.client_id) for member in members}))
