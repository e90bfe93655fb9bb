"""The requests of a run, and the thread that sends them."""

from __future__ import annotations

import random
import threading
import time
from enum import StrEnum

from confluent_kafka import KafkaError, Message, Producer

from tests.chaos.hostile import GIRL, hostile_record
from tests.chaos.options import Options
from tests.chaos.tally import Tally, text_of
from tests.harness import small_request
from tests.hostile_records import COMPLETED, DEAD_LETTER, HostileRecord
from worker.events.headers import request_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import timestamp
from worker.topics import Topics

LANE_WEIGHTS = (10, 30, 60)
# One record in so many is of this kind.
REPEATED_EVERY, INVALID_EVERY, UNDECODABLE_EVERY = 100, 100, 200
# A repeated id comes this many records after the first.
REPEAT_DISTANCE = 50


class Ending(StrEnum):
    """How a request has to end."""

    COMPLETED = "completed"
    FAILED = "failed"
    DEAD_LETTER = "dead-letter"


_HOSTILE_ENDINGS = {COMPLETED: Ending.COMPLETED, DEAD_LETTER: Ending.DEAD_LETTER}


def name_of(number: int) -> str:
    """The job id of record `number`: its own, or that of an earlier record which it repeats."""
    own = number - REPEAT_DISTANCE if number % REPEATED_EVERY == REPEAT_DISTANCE else number
    return f"chaos-{own:07d}"


def number_of(job_id: str) -> int:
    """The number of the first record with this job id."""
    return int(job_id.removeprefix("chaos-"))


def ending_of(number: int) -> Ending:
    """How the first record with a job id has to end, and so all."""
    if hostile := hostile_record(number):
        return _HOSTILE_ENDINGS.get(hostile.end, Ending.FAILED)
    if number % UNDECODABLE_EVERY == 7:
        return Ending.DEAD_LETTER
    return Ending.FAILED if number % INVALID_EVERY == 11 else Ending.COMPLETED


def code_of(number: int) -> str:
    """The error code with which a failed record has to end."""
    hostile = hostile_record(number)
    return hostile.end if hostile else "invalid_request"


def girl_of(number: int) -> str:
    """The `girl_id` of the first record with a job id, if that is one that completes."""
    return GIRL if hostile_record(number) else f"girl-{number % 100}"


class Sender:
    """Sends the requests over the three lanes at an even rate, each at least once."""

    def __init__(self, servers: str, topics: Topics, options: Options) -> None:
        self._options = options
        self._topics = topics
        self._codec = SingleObjectCodec()
        self._producer = Producer(
            # Not idempotent: such a producer gives up where a log has lost what it has written. A retry may write a
            # record twice, and then each of them has to end.
            {"bootstrap.servers": servers, "acks": "all", "linger.ms": 5, "log_level": 0}
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        # What the brokers have acknowledged.
        self.tally = Tally(bytearray(options.jobs))
        self.errors: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Wait until everything is acknowledged."""
        self._thread.join(timeout_s)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        rng = random.Random(self._options.seed)
        began = time.monotonic()
        for number in range(self._options.jobs):
            early_s = began + number / self._options.rate - time.monotonic()
            if self._stopping.wait(max(0.0, early_s)):
                return
            self._send(number, rng.choices(self._topics.requests, LANE_WEIGHTS)[0])
            self._producer.poll(0)
        while self._producer.flush(1.0) and not self._stopping.is_set():
            pass

    def _send(self, number: int, topic: str) -> None:
        name = name_of(number)
        first = number_of(name)
        if hostile := hostile_record(first):
            self._send_hostile(topic, name, hostile)
            return
        steps = 0 if ending_of(first) is Ending.FAILED else 4
        request = small_request(job_id=name, girl_id=girl_of(first), num_inference_steps=steps)
        value, framing = self._codec.encode(request, topic=topic)
        headers = request_headers(request, source="/chaos", now=timestamp(time.time()))
        if ending_of(first) is Ending.DEAD_LETTER:
            value = value[: len(value) // 2]
        self._producer.produce(
            topic,
            key=name.encode(),
            value=value,
            headers=[*headers, *framing],
            on_delivery=self._delivered,
        )

    def _send_hostile(self, topic: str, name: str, record: HostileRecord) -> None:
        self._producer.produce(
            topic, key=name.encode(), value=record.value(name), on_delivery=self._delivered, **record.options
        )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.errors.append(error.str())
        else:
            self.tally.add(number_of(text_of(message.key())), (message.topic() or "", message.partition() or 0))
