"""A gateway without Kafka: a log in memory in the place of the topics, and a store in the place of S3."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from worker.client.connection import Record
from worker.errors import StoreUnavailable
from worker.events.headers import Input
from worker.events.types import Event, GenerationRequest, GenerationStatus, JobStatus, Priority
from worker.gateway.admission import Admission
from worker.gateway.app import build_app
from worker.gateway.board import Board
from worker.gateway.hub import Hub
from worker.gateway.pictures import Pictures
from worker.gateway.sender import NotSent
from worker.gateway.service import Service
from worker.gateway.state import State
from worker.gateway.tokens import RateLimit, Tokens
from worker.gateway.topic_reader import Seen
from worker.intake.admit import AdmissionRules
from worker.settings import Settings
from worker.topics import Topics

TOPICS = Topics()
NOON = datetime(2026, 2, 8, 12, tzinfo=UTC)
TOKEN = "a-token-of-the-tests"
GOOD = {"girl_id": "luna", "user_id": 1, "prompt": "a lighthouse at dusk"}


@dataclass
class Log:
    """The topics: what was sent, and the services that follow them."""

    records: list[Seen] = field(default_factory=list)
    followers: list[Service] = field(default_factory=list)
    away: str | None = None
    held: asyncio.Event | None = None

    async def send(self, topic: str, event: Input, passed: Mapping[str, str]) -> None:
        """As `Sender` says; passed headers are kept beside the event."""
        if self.held is not None:
            await self.held.wait()
        if self.away is not None:
            raise NotSent(self.away)
        self.append(topic, event, headers=tuple((name, text.encode()) for name, text in passed.items()))

    def append(self, topic: str, event: Event | None, *, key: str = "", headers: Any = (), partition: int = 0) -> None:
        """A record for everybody who follows."""
        job_id = key or getattr(event, "job_id", "")
        value = None if event is None else b"an event"
        record = Record(topic, partition, len(self.records), job_id.encode(), value, headers, 1_770_552_000_000)
        seen = Seen(record, event)
        self.records.append(seen)
        for service in self.followers:
            service.on_seen([seen])

    def status(self, job_id: str, status: str, *, after_s: float = 0.0, partition: int = 0, **fields: Any) -> None:
        """A status event of a worker."""
        event = GenerationStatus(
            job_id=job_id,
            status=JobStatus(status),
            updated_at=NOON + timedelta(seconds=after_s),
            **{"girl_id": "luna", "priority": Priority.NORMAL, **fields},
        )
        self.append(TOPICS.status, event, partition=partition)

    @property
    def requests(self) -> list[GenerationRequest]:
        return [seen.event for seen in self.records if isinstance(seen.event, GenerationRequest)]


@dataclass
class Store:
    """Manifests by girl_id and job_id."""

    manifests: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    def fetch_manifest(self, girl_id: str, job_id: str) -> dict[str, Any] | None:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("S3 is away")
        return self.manifests.get((girl_id, job_id))

    def url(self, key: str) -> str:
        return f"https://pictures.example/{key}"


@dataclass
class Progress:
    """How far the topics were read."""

    trouble: str | None = None
    loaded: bool = True
    alive: bool = True


@dataclass
class World:
    """One gateway."""

    log: Log
    store: Store
    service: Service
    progress: Progress
    state: State
    app: Any
    settings: Settings

    def client(self, token: str | None = None, **options: Any) -> httpx.AsyncClient:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost:8007", headers=headers, **options)


def make_world(
    log: Log | None = None,
    *,
    tokens: str | None = None,
    rules: Callable[[AdmissionRules], AdmissionRules] = lambda rules: rules,
    clock: Callable[[], float] = lambda: 0.0,
    **settings: Any,
) -> World:
    """A gateway that has read all of `log`."""
    log = log or Log()
    chosen = Settings(_env_file=None, **{"gateway_rate_per_s": 1000.0, "gateway_burst": 100_000, **settings})
    store = Store()
    service = Service(
        topics=TOPICS,
        admission=Admission(rules(AdmissionRules(chosen))),
        board=Board(chosen.gateway_max_jobs),
        hub=Hub(chosen.gateway_max_streams),
        sender=log,
        pictures=Pictures(store),
        rate=RateLimit(chosen.gateway_rate_per_s, chosen.gateway_burst, clock),
        now=lambda: NOON,
        unknown_wait_s=0.01,
    )
    service.on_seen(log.records)
    log.followers.append(service)
    progress = Progress()
    state = State(progress)
    return World(log, store, service, progress, state, build_app(service, state, chosen, Tokens(tokens)), chosen)


def manifest_of(request: GenerationRequest) -> dict[str, Any]:
    """A stored manifest, as far as the gateway reads it."""
    from worker.delivery.digest import request_digest

    return {
        "job_id": request.job_id,
        "girl_id": request.girl_id,
        "user_id": request.user_id,
        "request_digest": request_digest(request),
        "request": {"affection_level": 0, "nsfw_level": 0},
        "recipe": {
            "prompt": request.prompt, "negative_prompt": None, "seed": 1, "num_inference_steps": 30,
            "guidance_scale": 7.5, "width": 1024, "height": 1024, "scheduler": "EulerDiscreteScheduler",
            "high_quality": False, "loras": [],
        },
        "model": {"model_fingerprint": "f", "refiner_fingerprint": None},
        "picture": {
            "output_format": "jpeg", "content_type": "image/jpeg", "byte_count": 1, "sha256": "0", "pixel_sha256": "0",
            "blurhash": "", "nsfw_score": None,
        },
        "run": {
            "created_at": NOON.isoformat(), "worker_id": "w", "attempt": 1, "lane": "high", "queue_time": 0.1,
            "generation_time": 2.34, "gpu_seconds": 1.0, "cost_usd": None,
        },
    }  # fmt: skip
