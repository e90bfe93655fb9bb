"""What is looked at before a worker loads its models, so that a mistake is told in seconds and in one line."""

from __future__ import annotations

import hashlib
import socket
import sys
import time
from collections import deque

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from worker import kafka_config
from worker.errors import SettingsError, StartupError
from worker.job import Lane
from worker.settings import Settings

_log = structlog.get_logger()

# The first wait for an answer, and the longest; in between Python hears signals.
SLICE_S = 1.0
MAX_SLICE_S = 5.0
TELL_AFTER_S = 3.0
TELL_EVERY_S = 30.0

# A stalled worker is fenced once when it comes back; two of one name fence each other again and again.
FENCED_TIMES = 4
FENCED_WITHIN_S = 120.0
FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})


class WorkerIdTaken(StartupError):
    """Another running worker has this WORKER_ID."""


def check_settings(settings: Settings) -> None:
    """Check what needs no network: the bucket's name, the LoRA path and librdkafka's properties.

    Raises:
        SettingsError: something is wrong; the message names the setting.
    """
    _ = settings.bucket
    settings.check_paths()
    check_kafka_properties(settings)


def check_kafka_properties(settings: Settings) -> None:
    """Have librdkafka look at the properties, as the worker's clients will have them.

    Raises:
        SettingsError: it does not know one, or not its value; the message names the property.
    """
    try:
        # Whether Kafka answers is looked at later.
        Consumer(kafka_config.consumer_config(settings, Lane.URGENT) | {"error_cb": _say_nothing}).close()
        Producer(kafka_config.producer_config(settings, {}) | {"error_cb": _say_nothing})
    except KafkaException as error:
        raise SettingsError(f"Kafka settings: {error.args[0].str()}") from None
    except (TypeError, ValueError) as error:
        raise SettingsError(f"Kafka settings: {error}") from None


def _say_nothing(_error: KafkaError) -> None:
    """An `error_cb`."""


def claim_worker_id(settings: Settings) -> socket.socket | None:
    """Hold this worker's name on this machine until the process ends; None where the system has no such means.

    An abstract Unix socket needs no file and cannot be left behind by a SIGKILL. Containers have names of their own,
    as they have ports.

    Raises:
        WorkerIdTaken: a process here holds it. Both would have one transactional.id and fence each other off for ever.
    """
    if sys.platform != "linux" or settings.delivery != "exactly-once":
        return None
    about = f"{settings.kafka_bootstrap_servers}\n{kafka_config.transactional_id(settings)}"
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0sdxl-worker-{hashlib.sha256(about.encode()).hexdigest()[:32]}")
    except OSError:
        claim.close()
        raise WorkerIdTaken(
            f"another worker on this machine has WORKER_ID {settings.worker_id} in the group "
            f"{settings.kafka_group_id}: give each its own WORKER_ID (the default is the machine's name)"
        ) from None
    return claim


class FenceWatch:
    """Tells the fencing of a worker that was stalled from two workers that share one WORKER_ID."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self._times: deque[float] = deque(maxlen=FENCED_TIMES)

    def note(self, error: KafkaError, now: float) -> None:
        """Look at a producer's error; `now` in seconds, of any clock that runs steadily.

        Raises:
            WorkerIdTaken: it is the last of too many fencings.
        """
        if error.code() not in FENCED:
            return
        self._times.append(now)
        if len(self._times) == FENCED_TIMES and now - self._times[0] <= FENCED_WITHIN_S:
            raise WorkerIdTaken(
                f"another worker elsewhere has WORKER_ID {self._worker_id}: its producer and ours have fenced each "
                f"other off {FENCED_TIMES} times; give each worker its own WORKER_ID"
            )


def wait_for_kafka(settings: Settings) -> None:
    """Wait until Kafka answers, and say so if that takes long.

    An outage at the start ends by itself, and so does the publishing of a cluster's name: neither is a reason to end.
    Each call is short, since Python hears signals only in between.
    """
    reasons: list[str] = []
    config = {**kafka_config.offsets_reader_config(settings), "error_cb": lambda error: reasons.append(error.str())}
    client = Consumer(config)
    began, slice_s = time.monotonic(), SLICE_S
    tell_at = began + TELL_AFTER_S
    try:
        while True:
            try:
                client.list_topics(timeout=slice_s)
            except KafkaException as error:
                client.poll(0)
                reasons[:] = reasons[-1:] or [error.args[0].str()]
                slice_s = min(2 * slice_s, MAX_SLICE_S)
            else:
                return
            if time.monotonic() > tell_at:
                tell_at = time.monotonic() + TELL_EVERY_S
                _log.warning(
                    "kafka_unreachable",
                    servers=settings.kafka_bootstrap_servers,
                    reason=reasons[0],
                    waited_s=round(time.monotonic() - began),
                    hint="is KAFKA_BOOTSTRAP_SERVERS right? The worker waits for Kafka and is not ready",
                )
    finally:
        client.close()
