"""Where the workers of the bench run: a broker, a store behind slow PUTs, and the contestants as child processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from devtools.bench.peers.requests import topics as peer_topics
from devtools.bench.worker.contestant import Contestant, as_avro, as_json
from devtools.bench.worker.servers import PARTITIONS, servers
from devtools.bench.worker.slow_puts import SlowPuts
from devtools.local.process import ChildProcess, free_port
from worker.topic_admin import create_topics
from worker.topics import Topics

STOP_GRACE_S = 20.0


@dataclass(frozen=True, slots=True)
class Site:
    """The servers, and what is started beside them, which ends with the context."""

    servers: str
    environment: Mapping[str, str]
    folder: Path
    stack: ExitStack

    def worker(self, name: str, module: str = "worker", settings: Mapping[str, str] | None = None) -> Contestant:
        """Start this project's worker, or `module` in its place, on topics of its own."""
        topics = Topics(f"{name}.")
        create_topics(self.servers, topics, PARTITIONS)
        own = {
            "KAFKA_TOPIC_PREFIX": topics.prefix,
            "KAFKA_GROUP_ID": f"{name}.worker",
            "WORKER_ID": name,
            "HTTP_PORT": str(free_port()),
        }
        arguments = ["-m", module, "run"] if module == "worker" else ["-m", module]
        child = self._start(name, arguments, own | dict(settings or {}))
        return self._reading(
            Contestant(name, child, self.servers, topics.requests, topics.completed, as_avro(), topics.failed)
        )

    def peer(self, name: str, module: str, settings: Mapping[str, str] | None = None) -> Contestant:
        """Start a peer on topics of its own."""
        requests, completed = peer_topics(f"{name}.")
        admin = AdminClient({"bootstrap.servers": self.servers})
        for future in admin.create_topics([NewTopic(topic, PARTITIONS) for topic in (*requests, completed)]).values():
            future.result()
        child = self._start(name, ["-m", module], {"PEER_PREFIX": f"{name}."} | dict(settings or {}))
        return self._reading(Contestant(name, child, self.servers, tuple(requests), completed, as_json))

    def _reading(self, contestant: Contestant) -> Contestant:
        self.stack.callback(contestant.close)
        return contestant

    def _start(self, name: str, arguments: list[str], settings: Mapping[str, str]) -> ChildProcess:
        command = [sys.executable, *arguments]
        child = ChildProcess(name, command, self.folder / f"{name}.log", {**self.environment, **settings})
        child.start()
        self.stack.callback(child.stop, STOP_GRACE_S)
        return child


@contextmanager
def site() -> Iterator[Site]:
    """Start Kafka, S3 and the proxy."""
    with servers() as place, SlowPuts(place.s3_port) as proxy, ExitStack() as stack:
        environment = place.environment | {"AWS_ENDPOINT_URL_S3": proxy.endpoint_url}
        yield Site(place.bootstrap, environment, place.folder, stack)
