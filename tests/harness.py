"""Worker processes and a client, for tests that observe the worker from outside."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from devtools.local.process import ChildProcess, free_port
from devtools.local.seaweedfs import SeaweedFS
from tests.forking import FORKED, ForkedProcess
from worker.events.headers import request_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import Event, GenerationRequest, timestamp
from worker.topics import Topics

READY_TIMEOUT_S = 180.0
RESULT_TIMEOUT_S = 90.0
# For workers on librdkafka's own broker, which has no transactions, delays every fetch by its longest wait, and
# rebalances by the session timeout.
EMBEDDED_SETTINGS = {
    "DELIVERY": "at-least-once",
    "KAFKA_GROUP_PROTOCOL": "classic",
    "KAFKA_FETCH_WAIT_MAX_MS": "10",
    "KAFKA_SESSION_TIMEOUT_MS": "6000",
}


@dataclass(frozen=True)
class Broker:
    """A Kafka to test on, and what a worker must be told about it."""

    bootstrap_servers: str
    environment: Mapping[str, str]
    create_topics: Callable[[Topics], object]


@dataclass(frozen=True)
class Site:
    """All that a worker needs around it."""

    broker: Broker
    topics: Topics
    store: SeaweedFS
    models: Path
    logs: Path

    def worker(self, name: str, **settings: str) -> WorkerProcess:
        """A worker that is not started yet."""
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
            "KAFKA_TOPIC_PREFIX": self.topics.prefix,
            "KAFKA_GROUP_ID": f"group-{self.topics.prefix}",
            "WORKER_ID": name,
            "SDXL_MODEL_ID": str(self.models / "base"),
            "SDXL_REFINER_ID": str(self.models / "refiner"),
            "DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "HTTP_HOST": "127.0.0.1",
            **self.broker.environment,
            **self.store.environment,
            **settings,
        }
        return WorkerProcess(name, environment, self.logs / f"{name}-{uuid.uuid4().hex[:6]}.log")


class WorkerProcess:
    """One `python -m worker run`."""

    def __init__(
        self, name: str, environment: Mapping[str, str], log: Path, command: Sequence[str] = ("-m", "worker", "run")
    ) -> None:
        self.name = name
        self.port = free_port()
        self.log = log
        self.environment = environment
        environment = {**environment, "HTTP_PORT": str(self.port)}
        if command[0] == "-m" and command[1] in FORKED:
            self._child: ChildProcess = ForkedProcess(name, command[1:], log, environment)
        else:
            self._child = ChildProcess(name, [sys.executable, *command], log, environment)

    def start(self) -> WorkerProcess:
        self._child.start()
        return self

    def wait_ready(self) -> WorkerProcess:
        self._child.wait_until(lambda: self.get("/ready")[0] == 200, READY_TIMEOUT_S)
        return self

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of the worker's HTTP answer; status 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def terminate(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, then the exit code."""
        self._child.terminate()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit code, once the process has ended."""
        deadline = time.monotonic() + timeout_s
        while (code := self._child.exit_code) is None:
            assert time.monotonic() < deadline, f"{self.name} still runs; see {self.log}"
            time.sleep(0.05)
        return code

    def kill(self) -> None:
        self._child.kill()

    def signal_twice(self) -> None:
        """SIGTERM, and another one as soon as the first was seen."""
        self._child.terminate()
        deadline = time.monotonic() + 20
        while '"event": "signal"' not in self.log.read_text():
            assert time.monotonic() < deadline, "the first signal was not seen"
            time.sleep(0.02)
        self._child.terminate()

    def suspend(self) -> None:
        self._child.suspend()

    def resume(self) -> None:
        self._child.resume()

    @property
    def running(self) -> bool:
        return self._child.running

    def __enter__(self) -> WorkerProcess:
        return self.start().wait_ready()

    def __exit__(self, *_: object) -> None:
        self._child.stop()


@dataclass(frozen=True)
class Result:
    """A record on a result topic; `event` is None on the dead-letter topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    event: Any


@dataclass
class Client:
    """Sends requests and gathers results, as an upstream service and a notifier would."""

    site: Site
    results: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        servers = self.site.broker.bootstrap_servers
        self.codec = SingleObjectCodec()
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 0})
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": f"reader-{uuid.uuid4().hex[:8]}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "allow.auto.create.topics": True,
            }
        )
        topics = self.site.topics
        names = [topics.completed, topics.failed, topics.dead_letter]
        self._consumer.assign(
            [
                TopicPartition(name, partition, 0)
                for name in names
                for partition in self._consumer.list_topics(name, timeout=10).topics[name].partitions
            ]
        )

    def close(self) -> None:
        self._consumer.close()
        self._producer.flush(10)

    def request(self, lane: str = "normal", **fields: Any) -> GenerationRequest:
        """Send a small valid request, changed by `fields`."""
        request = small_request(**fields)
        topic = getattr(self.site.topics, lane)
        value, framing = self.codec.encode(request, topic=topic)
        headers = request_headers(request, source="/tests", now=timestamp(time.time()))
        self.send(topic, request.job_id.encode(), value, [*headers, *framing])
        return request

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Iterable[Any] = (), timestamp_ms: int = 0
    ) -> None:
        """Send raw bytes and wait for the acknowledgement; a timestamp of 0 is the time of sending."""
        self._producer.produce(topic, key=key, value=value, headers=list(headers), timestamp=timestamp_ms)
        assert self._producer.flush(20) == 0

    def wait_for(self, enough: Callable[[list[Result]], bool], timeout_s: float = RESULT_TIMEOUT_S) -> list[Result]:
        """Gather results until `enough` of them came.

        Raises:
            AssertionError: they did not come in time.
        """
        deadline = time.monotonic() + timeout_s
        while not enough(self.results):
            assert time.monotonic() < deadline, f"only {[self.brief(r) for r in self.results]} came"
            self.poll(0.1)
        return self.results

    def poll(self, timeout_s: float) -> None:
        record = self._consumer.poll(timeout_s)
        if record is None or record.error() is not None:
            return
        topic, raw = record.topic(), dict(record.headers() or [])
        assert topic is not None
        value = record.value()
        event: Event | None = None
        if topic != self.site.topics.dead_letter:
            event = self.codec.decode_any(value, topic=topic, headers=None)
        headers = {name: v.decode(errors="replace") if isinstance(v, bytes) else v or "" for name, v in raw.items()}
        self.results.append(Result(topic, record.key(), value, headers, event))

    def settle(self, seconds: float) -> None:
        """Gather for a while longer, to see that nothing more comes."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.poll(0.1)

    def of(self, job_id: str) -> list[Result]:
        """The results of one job."""
        return [result for result in self.results if result.key == job_id.encode()]

    def one(self, job_id: str, timeout_s: float = RESULT_TIMEOUT_S) -> Result:
        """The first result of a job."""
        self.wait_for(lambda _: bool(self.of(job_id)), timeout_s)
        return self.of(job_id)[0]

    @staticmethod
    def brief(result: Result) -> str:
        return f"{result.topic.rsplit('.', 1)[-1]}:{(result.key or b'').decode(errors='replace')[:40]}"


def small_request(**fields: Any) -> GenerationRequest:
    """A request that the toy model answers in a fraction of a second."""
    defaults: dict[str, Any] = {
        "job_id": f"job-{uuid.uuid4().hex[:12]}",
        "girl_id": "luna",
        "user_id": 1,
        "prompt": "a lighthouse at dusk",
        "width": 64,
        "height": 64,
        "num_inference_steps": 4,
    }
    return GenerationRequest(**{**defaults, **fields})


def log_lines(log: Path) -> list[dict[str, Any]]:
    """The JSON lines of a worker's log."""
    lines = log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
