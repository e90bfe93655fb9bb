"""Servers for the demo and the rehearsal: Kafka, S3 and one worker process; all are stopped at the end."""

from __future__ import annotations

import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from devtools.local.embedded import EmbeddedBroker, EmbeddedBrokerError
from devtools.local.process import LOOPBACK, ChildProcess, ProcessError, free_port
from devtools.local.seaweedfs import SeaweedFS, SeaweedMissingError
from devtools.models.shipped import DEMO_BASE, DEMO_LORAS, DEMO_REFINER
from worker.client.errors import CommandError
from worker.topics import Topics

BUCKET = "demo-pictures"
PARTITIONS = 4
READY_TIMEOUT_S = 90.0
STOP_GRACE_S = 20.0

DEMO_MODEL: Mapping[str, str] = {
    "SDXL_MODEL_ID": str(DEMO_BASE),
    "SDXL_REFINER_ID": str(DEMO_REFINER),
    "SDXL_LORA_PATH": str(DEMO_LORAS),
    "DEVICE": "cpu",
    "DTYPE": "float32",
    "OMP_NUM_THREADS": "1",
}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers that run until the end."""

    broker: EmbeddedBroker
    store: SeaweedFS
    worker: ChildProcess


def forget_real_services() -> None:
    """Remove every environment variable of this process that could point the worker to a real cluster or bucket."""
    for name in list(os.environ):
        if name.startswith(("KAFKA_", "AWS_", "SCHEMA_REGISTRY_", "SDXL_", "CLOUDFRONT_", "URL_")):
            del os.environ[name]


@contextmanager
def stage(
    out: Path,
    topics: Topics,
    say: Say,
    settings: Mapping[str, str] = DEMO_MODEL,
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> Iterator[Stage]:
    """Start everything; the worker is ready when this yields.

    Args:
        settings: of the worker: its model and device.

    Raises:
        CommandError: a server did not start; the message contains the end of its log.
    """
    try:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sdxl-demo-")))
            say("starting the embedded Kafka broker and SeaweedFS")
            broker = stack.enter_context(EmbeddedBroker())
            broker.create_topics(topics, PARTITIONS)
            store = stack.enter_context(SeaweedFS(scratch / "s3", BUCKET))
            say("starting the worker, which loads its model")
            port = free_port()
            environment = _environment(broker, store, port) | dict(settings)
            command = [sys.executable, "-m", "worker", "run"]
            worker = ChildProcess("the worker", command, out / "worker.log", environment)
            worker.start()
            stack.callback(worker.stop, STOP_GRACE_S)
            worker.wait_until(lambda: _answers(f"http://127.0.0.1:{port}/ready"), ready_timeout_s)
            yield Stage(broker, store, worker)
    except (ProcessError, SeaweedMissingError, EmbeddedBrokerError) as error:
        raise CommandError(str(error)) from error


def end_worker(worker: ChildProcess) -> int | None:
    """Stop the worker with SIGTERM, as Kubernetes does; return its exit code, or None if it had to be killed."""
    worker.terminate()
    with suppress(ProcessError):  # raised because the process has ended, which is what this waits for
        worker.wait_until(lambda: False, STOP_GRACE_S)
    return worker.exit_code


def _environment(broker: EmbeddedBroker, store: SeaweedFS, port: int) -> dict[str, str]:
    """Return the worker's settings; they also override those in a .env file that could point to real services."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        # The embedded broker delays every fetch by the first, and a rebalance of members that come late by the second.
        "KAFKA_PROPERTIES": '{"fetch.wait.max.ms": "10", "session.timeout.ms": "6000"}',
        "KAFKA_GROUP_PROTOCOL": "classic",
        "SCHEMA_REGISTRY_URL": "none",
        "DELIVERY": "at-least-once",
        **store.environment,
        "CLOUDFRONT_URL": "none",
        "WORKER_ID": "demo-worker",
        "HTTP_HOST": LOOPBACK,
        "HTTP_PORT": str(port),
    }


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2) as response:
            return bool(response.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError):
        return False
