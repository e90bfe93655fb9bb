"""One of the workers that are compared: requests go in, and the time of each completed event is noted."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from devtools.demo_model import scenes
from devtools.local.process import ChildProcess
from worker.events.headers import request_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationRequest, timestamp
from worker.job import Lane

READY_TIMEOUT_S = 180.0
_POLL_S = 0.05
_LIST_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A picture to be drawn; `due_s` after the start of the run."""

    job_id: str
    prompt: str
    seed: int
    side_px: int
    steps: int
    lane: Lane = Lane.NORMAL
    due_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """When a picture was asked for, and when its completed event was read; on the monotonic clock."""

    job_id: str
    lane: Lane
    sent_at: float
    done_at: float


Headers = list[tuple[str, str | bytes | None]]
Encode = Callable[[Ask, str], tuple[bytes, Headers]]


class ContestError(RuntimeError):
    """A contestant failed a request, or did not answer in time."""


def asks(name: str, count: int, *, side_px: int, steps: int, lane: Lane = Lane.NORMAL) -> list[Ask]:
    """Return pictures with prompts that no other has, so that nobody's cache of prompts has them either."""
    draw = random.Random(name)
    prompts = (f"{scenes.full_prompt(scenes.random_scene(draw))}, {name} {number}" for number in range(count))
    return [Ask(f"{name}-{number}", prompt, number, side_px, steps, lane) for number, prompt in enumerate(prompts)]


def as_json(ask: Ask, topic: str) -> tuple[bytes, Headers]:
    """What the peers read."""
    del topic
    body = {"job_id": ask.job_id, "prompt": ask.prompt, "seed": ask.seed, "steps": ask.steps, "guidance": 5.0}
    return json.dumps(body | {"width": ask.side_px, "height": ask.side_px}).encode(), []


def as_avro() -> Encode:
    """What this project's worker reads."""
    codec = SingleObjectCodec()

    def encode(ask: Ask, topic: str) -> tuple[bytes, Headers]:
        request = GenerationRequest(
            job_id=ask.job_id,
            girl_id="bench",
            user_id=1,
            prompt=ask.prompt,
            negative_prompt="",
            num_inference_steps=ask.steps,
            guidance_scale=5.0,
            width=ask.side_px,
            height=ask.side_px,
            seed=ask.seed,
        )
        value, framing = codec.encode(request, topic=topic)
        headers = request_headers(request, source="/bench", now=timestamp(time.time()))
        return value, [*headers, *framing]

    return encode


class Contestant:
    """A running worker, its request topics by lane, and a reader of its completed events.

    Args:
        failed: topic whose records mean that a request was not drawn.
    """

    def __init__(
        self,
        name: str,
        child: ChildProcess,
        servers: str,
        requests: Sequence[str],
        completed: str,
        encode: Encode,
        failed: str | None = None,
    ) -> None:
        self.name, self.child = name, child
        self._requests = dict(zip(Lane, requests, strict=True))
        self._encode, self._failed = encode, failed
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 0, "log_level": 2})
        self._consumer = Consumer(
            {"bootstrap.servers": servers, "group.id": "bench", "enable.auto.commit": False, "log_level": 2}
        )
        topics = [topic for topic in (completed, failed) if topic is not None]
        self._consumer.assign([part for topic in topics for part in self._partitions(topic)])

    def warm(self, asked: Iterable[Ask]) -> None:
        """Wait until these are drawn, which a worker does once it has its partitions."""
        self.play(asked, READY_TIMEOUT_S)

    def play(self, asked: Iterable[Ask], timeout_s: float = READY_TIMEOUT_S) -> list[Done]:
        """Send each request when it is due; return all of them when the last is done, in the order of their ends.

        Raises:
            ContestError: one failed, or all took longer than `timeout_s`.
        """
        waiting = sorted(asked, key=lambda ask: ask.due_s)
        began, sent, done = time.monotonic(), dict[str, tuple[Lane, float]](), list[Done]()
        while waiting or sent:
            now = time.monotonic()
            while waiting and waiting[0].due_s <= now - began:
                ask = waiting.pop(0)
                sent[ask.job_id] = ask.lane, time.monotonic()
                self._send(ask)
            self._producer.poll(0)
            if not self.child.running or now - began > timeout_s:
                raise ContestError(f"{self.name}: {len(sent)} requests are not done; its log:\n{self.child.log_tail()}")
            message = self._consumer.poll(_POLL_S if waiting else 10 * _POLL_S)
            if message is not None and (job_id := self._job_id(message)) in sent:
                lane, sent_at = sent.pop(job_id)
                done.append(Done(job_id, lane, sent_at, time.monotonic()))
        return done

    def close(self) -> None:
        """End the reader; the child ends with the site."""
        self._consumer.close()

    def _send(self, ask: Ask) -> None:
        topic = self._requests[ask.lane]
        value, headers = self._encode(ask, topic)
        self._producer.produce(topic, key=ask.job_id.encode(), value=value, headers=headers)

    def _job_id(self, message: Message) -> str:
        """The job that a result is of. Raises ContestError where it failed."""
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                return ""
            raise KafkaException(error)
        job_id = (message.key() or b"").decode()
        if message.topic() == self._failed:
            raise ContestError(f"{self.name} failed {job_id}: {message.value()!r}")
        return job_id

    def _partitions(self, topic: str) -> list[TopicPartition]:
        """All partitions from their beginning; a new topic is not known to the broker at once."""
        while not (found := self._consumer.list_topics(topic, _LIST_TIMEOUT_S).topics[topic].partitions):
            time.sleep(_POLL_S)
        return [TopicPartition(topic, number, 0) for number in found]
