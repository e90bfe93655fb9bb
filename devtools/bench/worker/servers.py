"""The real Kafka and the real S3 that the workers of the bench run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from devtools.local.kafka import KafkaCluster
from devtools.local.process import LOOPBACK
from devtools.local.seaweedfs import SeaweedFS
from worker.topic_admin import create_topics
from worker.topics import Topics

BUCKET = "bench-pictures"
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Servers:
    """Where Kafka and S3 are, the environment of workers that use them, and a folder for logs."""

    bootstrap: str
    s3_port: int
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
                "OMP_NUM_THREADS": "1",
                # The repository, so that children find this package wherever the bench was started.
                "PYTHONPATH": os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH")))),
            }
            yield Servers(kafka.bootstrap_servers, s3.port, environment, folder)
