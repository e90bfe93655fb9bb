"""Kafka and S3 with the results of some requests, and the `replay` verb run on them in this process."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from devtools.local.kafka import KafkaCluster
from devtools.local.seaweedfs import SeaweedFS
from tests.harness import Broker, Client, Result, Site
from worker.app import build, load_engine
from worker.cli import app
from worker.cluster.checker import make_checker
from worker.connections import RealConnections
from worker.delivery.upload import PictureStore
from worker.events.types import GenerationRequest
from worker.rule_files import read_rules
from worker.runtime import Worker
from worker.settings import load_settings
from worker.telemetry.health import Health
from worker.threads import SystemThreads
from worker.topic_admin import create_topics
from worker.topics import Topics

LANES = ("urgent", "high", "normal")
FORMATS = ("jpeg", "webp", "png")
JOBS = 12
PARTITIONS = 2


@dataclass(frozen=True)
class Answered:
    """What was sent: twelve requests that completed, three that came too late, one that is invalid."""

    site: Site
    good: list[GenerationRequest]
    expired: list[GenerationRequest]
    invalid: GenerationRequest
    settings: dict[str, str]

    def manifest(self, request: GenerationRequest) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.fetch(request, "json"))
        return found

    def fetch(self, request: GenerationRequest, extension: str) -> bytes:
        store = self.site.store
        return store.client().get_object(Bucket=store.bucket, Key=self._key(request, extension))["Body"].read()

    def put(self, request: GenerationRequest, extension: str, data: bytes) -> None:
        store = self.site.store
        store.client().put_object(Bucket=store.bucket, Key=self._key(request, extension), Body=data)

    def put_manifest(self, request: GenerationRequest, manifest: dict[str, Any]) -> None:
        self.put(request, "json", json.dumps(manifest).encode())

    @staticmethod
    def _key(request: GenerationRequest, extension: str) -> str:
        prefix = "manifests" if extension == "json" else "generated"
        return f"{prefix}/{request.girl_id}/{request.job_id}.{extension}"


@dataclass
class Outcome:
    """How one call of the verb ended."""

    code: int
    lines: list[dict[str, Any]]
    text: str
    error: BaseException | None

    @property
    def summary(self) -> dict[str, Any]:
        return self.lines[-1]

    def of(self, job_id: str) -> dict[str, Any]:
        return next(line for line in self.lines if line.get("job_id") == job_id)


@contextmanager
def in_this_process(environment: dict[str, str]) -> Iterator[Worker]:
    """A worker that works while it is polled, and drains at the end: a process of its own takes long to start."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings = load_settings()
    connections = RealConnections(settings, PictureStore.from_settings(settings), make_checker(settings))
    rules, loaded, threads = read_rules(settings), load_engine(settings), SystemThreads()
    worker = build(settings, rules, loaded, connections, threads, Health(time.monotonic))
    worker.start()
    yield worker
    worker.drain(30, hurry=lambda: False)


@pytest.fixture(scope="package")
def answered(kafka: KafkaCluster, s3: SeaweedFS, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """A worker's work of some seconds; it has ended when this yields."""
    topics = Topics(prefix=f"r{uuid.uuid4().hex[:8]}.")
    broker = Broker(
        kafka.bootstrap_servers, {}, lambda names: create_topics(kafka.bootstrap_servers, names, PARTITIONS)
    )
    broker.create_topics(topics)
    site = Site(broker, topics, s3, toy, tmp_path_factory.mktemp("logs"))
    # The replays have neither: a profile that is gone and a detector that is off must change nothing that was made.
    profiles = tmp_path_factory.mktemp("profiles")
    (profiles / "default.toml").write_text(
        'prompt = "a photograph of"\nquality = ["sharp focus, natural colours, film grain, f/2, 85mm, warm light"]\n'
    )
    house = {
        "PROFILES_PATH": str(profiles),
        "NSFW_DETECTOR": "skin",
        "NSFW_ACTION": "blur",
        "NSFW_THRESHOLDS": '{"0": 0}',
    }
    settings = dict(site.worker("first").environment) | house
    client = Client(site)
    with closing(client), in_this_process(settings) as worker:
        good = [
            client.request(LANES[n % 3], job_id=f"good-{n}", high_quality=n == 7, output_format=FORMATS[n % 3])
            for n in range(JOBS)
        ]
        late = datetime.now(UTC) - timedelta(seconds=5)
        expired = [client.request(job_id=f"late-{n}", expires_at=late) for n in range(3)]
        invalid = client.request("high", job_id="invalid-1", num_inference_steps=0)
        deadline = time.monotonic() + 60
        while len(client.results) < JOBS + 4:
            assert time.monotonic() < deadline, f"only {len(client.results)} results came"
            worker.poll()
            client.poll(0)
    return Answered(site, good, expired, invalid, settings)


@pytest.fixture
def sdxl(answered: Answered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Run `replay … --json` with the worker's settings, changed by keyword arguments."""
    monkeypatch.chdir(tmp_path)
    # It would bind the log to a stream that CliRunner closes.
    monkeypatch.setattr("worker.telemetry.logs.configure", lambda *_: None)

    def run(*arguments: str, **settings: str) -> Outcome:
        environment = {**answered.settings, "WORKER_ID": "replayer", **settings}
        result = CliRunner().invoke(app, ["replay", *arguments, "--json"], env=environment)
        lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
        return Outcome(result.exit_code, lines, result.output, result.exception)

    return run


@pytest.fixture
def results(answered: Answered) -> Iterator[Callable[[str], list[Result]]]:
    """What a consumer that reads only committed records has seen of a replay."""
    client = Client(answered.site)

    def of(replay_id: str) -> list[Result]:
        client.settle(1.0)
        return [result for result in client.results if getattr(result.event, "replay_id", None) == replay_id]

    yield of
    client.close()
