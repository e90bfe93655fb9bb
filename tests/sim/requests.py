"""The requests of a simulation: mostly valid ones, and some of each invalid kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationRequest
from worker.topics import Topics

CODEC = SingleObjectCodec()
TOPICS = Topics()
WORK_TOPICS = Topics("", "work")


class Kind(Enum):
    GOOD = auto()
    NAN = auto()
    INVALID = auto()
    UNDECODABLE = auto()
    POISON = auto()


@dataclass(slots=True)
class Request:
    """One record that was sent, and what became of it. `number` travels in its traceparent header."""

    number: int
    kind: Kind
    job_id: str
    topic: str
    value: bytes
    partition: int = -1
    offset: int = -1
    outcomes: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        return [("traceparent", f"00-{self.number:032x}-{1:016x}-01".encode())]


def make(number: int, kind: Kind, lane: int, job_id: str, prompt: str = "") -> Request:
    topic = TOPICS.requests[lane]
    if kind is Kind.UNDECODABLE:
        return Request(number, kind, job_id, topic, b"\xc3\x01 no avro")
    request = GenerationRequest(
        job_id=job_id,
        girl_id="g",
        user_id=number,
        prompt="NaN" if kind is Kind.NAN else prompt or f"a picture for {job_id}",
        guidance_scale=-1.0 if kind is Kind.INVALID else 7.5,
    )
    value, _ = CODEC.encode(request, topic=topic)
    return Request(number, kind, job_id, topic, value)


def again(number: int, first: Request, lane: int) -> Request:
    """The same request once more."""
    return Request(number, first.kind, first.job_id, TOPICS.requests[lane], first.value)


def number_of(headers: list[tuple[str, bytes | None]]) -> int:
    """Which request a result answers."""
    value = dict(headers)["traceparent"]
    assert value is not None
    return int(value.split(b"-")[1], 16)
