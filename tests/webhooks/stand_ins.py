"""A receiver on this machine, and a log of results with a consumer of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from confluent_kafka import KafkaError, TopicPartition

from worker.events.headers import result_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationCompleted, GenerationFailed, timestamp

CODEC = SingleObjectCodec()
COMPLETED, FAILED = "generation.completed", "generation.failed"
PARTITIONS = 2


@dataclass
class Got:
    """A request that the receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def job(self) -> str:
        return str(json.loads(self.body)["data"]["job_id"])

    @property
    def seed(self) -> int | None:
        seed: int | None = json.loads(self.body)["data"].get("seed")
        return seed


@dataclass
class Receiver:
    """An HTTP server that keeps what it gets; `answer` says what it replies: a status, or a status with headers."""

    answer: Callable[[Got], int | tuple[int, dict[str, str]]] = lambda _: 204
    got: list[Got] = field(default_factory=list)
    most_at_once: int = 0

    def __enter__(self) -> Receiver:
        outer, lock, now = self, threading.Lock(), [0]

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                got = Got(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                with lock:
                    now[0] += 1
                    outer.most_at_once = max(outer.most_at_once, now[0])
                    outer.got.append(got)
                reply = outer.answer(got)
                with lock:
                    now[0] -= 1
                status, headers = reply if isinstance(reply, tuple) else (reply, {})
                self.send_response(status)
                for name, value in ({"content-length": "0"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hook"

    @property
    def jobs(self) -> list[str]:
        return [got.job for got in self.got]


@dataclass
class Record:
    """What a consumer returns: a record, or an error such as the end of a partition."""

    place: tuple[str, int, int]
    record_key: bytes | None = None
    record_value: bytes | None = None
    record_headers: list[tuple[str, bytes]] | None = None
    failure: KafkaError | None = None

    def topic(self) -> str:
        return self.place[0]

    def partition(self) -> int:
        return self.place[1]

    def offset(self) -> int:
        return self.place[2]

    def key(self) -> bytes | None:
        return self.record_key

    def value(self) -> bytes | None:
        return self.record_value

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self.record_headers

    def error(self) -> KafkaError | None:
        return self.failure


class Log:
    """Two topics of two partitions, and the group's committed offsets."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], list[Record]] = {
            (topic, partition): [] for topic in (COMPLETED, FAILED) for partition in range(PARTITIONS)
        }
        self.committed: dict[tuple[str, int], int] = {}

    def publish(self, *events: GenerationCompleted | GenerationFailed, partition: int = 0) -> None:
        for event in events:
            topic = COMPLETED if isinstance(event, GenerationCompleted) else FAILED
            value, _ = CODEC.encode(event, topic=topic)
            headers: Any = list(result_headers(event, source="/test", now=timestamp(1)))
            self.append(topic, partition, event.job_id.encode(), value, headers)

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Any = None) -> None:
        log = self.records[topic, partition]
        log.append(Record((topic, partition, len(log)), key, value, headers))

    def lag(self) -> int:
        return sum(len(log) - self.committed.get(partition, 0) for partition, log in self.records.items())


class Consumer:
    """A group member on a `Log`: what confluent-kafka's does, without waiting."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.paused: set[tuple[str, int]] = set()
        self.polled = 0
        self.closed = False
        self.positions: dict[tuple[str, int], int] = {}
        self._told_end: dict[tuple[str, int], int] = {}
        self._todo: list[Callable[[], None]] = []

    def subscribe(self, topics: list[str], **callbacks: Callable[[Any, list[TopicPartition]], None]) -> None:
        self._callbacks = callbacks
        self.assign([p for p in self.log.records if p[0] in topics])

    def assign(self, partitions: list[tuple[str, int]]) -> None:
        """At the next poll, the group gives these partitions to this member."""
        self._todo.append(lambda: self._give(partitions))

    def revoke(self, partitions: list[tuple[str, int]], how: str = "on_revoke") -> None:
        """At the next poll, the group takes them away."""
        self._todo.append(lambda: self._take(partitions, how))

    def _give(self, partitions: list[tuple[str, int]]) -> None:
        self._callbacks["on_assign"](self, [TopicPartition(*p) for p in partitions])
        self.positions |= {p: self.log.committed.get(p, 0) for p in partitions}

    def _take(self, partitions: list[tuple[str, int]], how: str) -> None:
        self._callbacks[how](self, [TopicPartition(*p) for p in partitions])
        for partition in partitions:
            del self.positions[partition]
            self._told_end.pop(partition, None)

    def poll(self, _timeout_s: float) -> Record | None:
        while self._todo:
            self._todo.pop(0)()
        return next(self._next(), None)

    def _next(self) -> Iterator[Record]:
        for partition, position in self.positions.items():
            if partition in self.paused:
                continue
            if position < len(self.log.records[partition]):
                self.positions[partition] += 1
                self.polled += 1
                yield self.log.records[partition][position]
            elif self._told_end.get(partition) != position:
                self._told_end[partition] = position
                yield Record((*partition, position), failure=KafkaError(KafkaError._PARTITION_EOF))

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {(p.topic, p.partition) for p in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {(p.topic, p.partition) for p in partitions}

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:  # noqa: ARG002
        for place in offsets:
            assert (place.topic, place.partition) in self.positions, "a commit for a partition of somebody else"
            self.log.committed[place.topic, place.partition] = place.offset

    def close(self) -> None:
        self._take(list(self.positions), "on_revoke")
        self.closed = True
