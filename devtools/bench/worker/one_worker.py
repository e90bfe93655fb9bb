"""A whole worker with a stand-in for the model, in a process of its own, on a real Kafka and a real S3."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client.parser import text_string_to_metric_families

from devtools.local.kafka import KafkaCluster
from devtools.local.process import LOOPBACK, ChildProcess, free_port
from devtools.local.seaweedfs import SeaweedFS
from worker.topic_admin import create_topics
from worker.topics import Topics

BUCKET = "bench-pictures"
PARTITIONS = 4
STOP_GRACE_S = 20.0
_ANSWER_S = 2.0
_TELLING = ("operation", "result")
# As `python -m worker run`, but for the model.
_PROGRAM = """
import sys
from devtools.bench.fleet import device
from worker.app import run
from worker.settings import load_settings
sys.exit(run(load_settings(), lambda _: device.loaded(float(sys.argv[1]), lambda *_: None)))
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where Kafka and S3 are, and a folder for logs."""

    bootstrap: str
    environment: dict[str, str]
    folder: Path


@contextmanager
def servers() -> Iterator[Servers]:
    """Start Kafka with the worker's topics, and S3."""
    with TemporaryDirectory(prefix="bench-worker-") as name:
        folder = Path(name)
        with KafkaCluster(1, folder / "kafka") as kafka, SeaweedFS(folder / "s3", BUCKET) as s3:
            create_topics(kafka.bootstrap_servers, Topics(), PARTITIONS)
            environment = {
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
                **s3.environment,
                "SCHEMA_REGISTRY_URL": "",
                "CLOUDFRONT_URL": "",
                "HTTP_HOST": LOOPBACK,
                "LOG_FORMAT": "json",
                "PYTHONPATH": os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH")))),
            }
            yield Servers(kafka.bootstrap_servers, environment, folder)


class OneWorker:
    """A worker that draws a picture in `picture_s` seconds without using the processor."""

    def __init__(self, place: Servers, name: str, picture_s: float) -> None:
        self._port = free_port()
        self.log = place.folder / f"{name}.log"
        own = {"WORKER_ID": name, "HTTP_PORT": str(self._port)}
        self.child = ChildProcess(
            name, [sys.executable, "-c", _PROGRAM, str(picture_s)], self.log, place.environment | own
        )

    def is_ready(self) -> bool:
        """Whether it says that it can work."""
        try:
            return bool(self._get("/ready"))
        except (urllib.error.URLError, OSError):
            return False

    def counters(self) -> dict[tuple[str, str], float]:
        """The samples of `/metrics`, by name and by the label that tells what was done or how it ended, if any."""
        found: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families(self._get("/metrics").decode()):
            for sample in family.samples:
                label = next((sample.labels[name] for name in _TELLING if name in sample.labels), "")
                found[sample.name, label] = found.get((sample.name, label), 0.0) + sample.value
        return found

    def stop(self) -> None:
        """Drain and end it."""
        self.child.stop(STOP_GRACE_S)

    def _get(self, path: str) -> bytes:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://{LOOPBACK}:{self._port}{path}", timeout=_ANSWER_S) as answer:
            return bytes(answer.read())
