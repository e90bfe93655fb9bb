"""What the bench on a real Kafka runs on: one local broker, dispatchers as processes, a process full of workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devtools.local.kafka import KafkaCluster
from devtools.local.process import ChildProcess, free_port
from worker.topic_admin import create_topics
from worker.topics import Topics

START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Site:
    """The broker, and topics of one part of the bench."""

    servers: str
    topics: Topics
    work: Topics
    partitions: int
    folder: Path
    stack: ExitStack
    # By name.
    processes: dict[str, ChildProcess] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    # Of the processes, beside those that the site needs.
    settings: dict[str, str] = field(default_factory=dict)

    def dispatcher(self, name: str) -> ChildProcess:
        """Start a dispatcher."""
        return self._start(name, ["-m", "worker", "dispatch"], "requests")

    def workers(self, count: int, picture_s: float, log: Path, *, behind_dispatchers: bool) -> ChildProcess:
        """Start workers, all in one process; `log` gets a line for each job that begins."""
        arguments = ["-m", "devtools.bench.fleet.workers", str(count), str(log), str(picture_s)]
        return self._start("workers", arguments, "work" if behind_dispatchers else "requests")

    def copier(self, batch: int) -> ChildProcess:
        """Start what passes on requests as they are, `batch` in a transaction."""
        arguments = ["-m", "devtools.bench.fleet.copier", self.servers, self.topics.prefix, str(batch)]
        return self._start("copier", arguments, "requests")

    def end(self, name: str) -> None:
        """Kill a process."""
        self.processes.pop(name).kill()

    def _start(self, name: str, arguments: list[str], source: str) -> ChildProcess:
        self.ports[name] = free_port()
        environment = {
            **os.environ,
            **self.settings,
            "KAFKA_BOOTSTRAP_SERVERS": self.servers,
            "KAFKA_TOPIC_PREFIX": self.topics.prefix,
            "KAFKA_GROUP_ID": f"{self.topics.prefix}workers",
            "DISPATCH_GROUP_ID": f"{self.topics.prefix}dispatch",
            "WORKER_ID": f"{self.topics.prefix}{name}",
            "INPUT": source,
            "AWS_S3_BUCKET": "bench",
            "UPLOAD_THREADS": "1",
            "FLUSH_INTERVAL_MS": "20",
            "LOG_LEVEL": "WARNING",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(self.ports[name]),
        }
        child = ChildProcess(name, [sys.executable, *arguments], self.folder / f"{name}.log", environment)
        child.start()
        self.processes[name] = child
        self.stack.callback(child.kill)
        return child


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """A broker for the whole bench; yields its address."""
    with KafkaCluster(1, folder / "kafka") as cluster:
        yield cluster.bootstrap_servers


@contextmanager
def site(servers: str, name: str, folder: Path, partitions: int) -> Iterator[Site]:
    """Topics with the prefix `name`, and what is started on them, which ends with the context."""
    topics, work = Topics(f"{name}."), Topics(f"{name}.", "work")
    create_topics(servers, topics, partitions)
    create_topics(servers, work, partitions)
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield Site(servers, topics, work, partitions, folder, stack)
