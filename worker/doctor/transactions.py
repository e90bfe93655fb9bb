"""Opens a producer as a worker does, under a transactional id of its own, and leaves nothing behind.

`init_transactions` asks the coordinator for a producer id: that is where a missing right or a missing quorum shows. The
transaction that follows is empty and aborted, so that no record and no marker is written. The id is the worker's with
`-doctor` at its end: the worker's own would fence a worker that is running.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Producer

from worker import kafka_config
from worker.delivery.exactly_once import TRANSACTION_CONFIG
from worker.doctor.finding import Finding, failed, ok, skipped
from worker.settings import Settings

SUBJECT = "transactions"
ANSWER_S = 8.0
INIT_S = 20.0
ABORT_S = 5.0

_RIGHTS = frozenset({KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})


def check(settings: Settings) -> Iterator[Finding]:
    """Open a transactional producer and abort an empty transaction."""
    if settings.delivery == "at-least-once":
        yield skipped(SUBJECT, "not used with DELIVERY at-least-once")
        return
    name = f"{kafka_config.transactional_id(settings)}-doctor"
    config = kafka_config.producer_config(settings, TRANSACTION_CONFIG) | {"transactional.id": name}
    reasons: list[str] = []
    config["error_cb"] = lambda error: reasons.append(error.str())
    producer = Producer(config)
    try:
        producer.list_topics(timeout=ANSWER_S)
    except KafkaException:
        yield skipped(SUBJECT, "not tried, since no broker answers")
        return
    began = time.monotonic()
    try:
        producer.init_transactions(INIT_S)
        producer.begin_transaction()
        producer.abort_transaction(ABORT_S)
    except KafkaException as error:
        with suppress(KafkaException):  # the same error again
            producer.poll(0)
        yield _refused(settings, name, error.args[0], reasons)
        return
    yield ok(SUBJECT, f"a producer opened as {name} in {time.monotonic() - began:.1f} s; nothing was written")


def _refused(settings: Settings, name: str, error: KafkaError, reasons: list[str]) -> Finding:
    own = kafka_config.transactional_id(settings)
    if error.code() in _RIGHTS:
        return failed(
            SUBJECT,
            f"this Kafka user may not use the transactional id {name}: {error.name()}",
            f"grant WRITE and DESCRIBE on transactional ids that begin with {own.removesuffix(settings.worker_id)} "
            f"(a right on {own} alone is enough for the worker, and not for this check)",
        )
    why = reasons[-1] if reasons and error.code() == KafkaError._TIMED_OUT else error.str()
    return failed(
        SUBJECT,
        f"no transactional producer can be opened: {why}",
        "see that __transaction_state has a leader and enough replicas in sync (transaction.state.log.min.isr)",
    )
