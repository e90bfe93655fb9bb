"""Pictures of jobs that the gateway does not remember: S3 knows them by their manifests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Protocol

from worker.delivery.completed import owners_event
from worker.delivery.digest import request_digest
from worker.delivery.upload import PictureStore
from worker.errors import RequestRejected, StoreUnavailable
from worker.events.types import GenerationRequest, GenerationStatus, JobStatus
from worker.gateway.refusals import try_later
from worker.settings import Settings

# boto3 waits in a thread; so many of them at most wait for S3.
_MAX_LOOKUPS = 8

digest_of = request_digest


class Manifests(Protocol):
    """What is asked; the worker's `PictureStore` is one."""

    def fetch_manifest(self, girl_id: str, job_id: str) -> dict[str, Any] | None: ...
    def url(self, key: str) -> str: ...


class Pictures:
    """Looks up manifests, a few at a time."""

    def __init__(self, store: Manifests) -> None:
        self._store = store
        # Of their own, so that an S3 that hangs does not keep requests from Kafka.
        self._threads = ThreadPoolExecutor(_MAX_LOOKUPS, thread_name_prefix="gateway-s3")

    @classmethod
    def from_settings(cls, settings: Settings) -> Pictures | None:
        """None where no bucket is set. Raises BucketError."""
        return None if settings.aws_s3_bucket is None else cls(PictureStore.from_settings(settings))

    @property
    def example_url(self) -> str:
        """The address of a picture, whose origin the page may load from."""
        return self._store.url("x")

    async def status(self, girl_id: str, job_id: str) -> GenerationStatus | None:
        """The last status of a job whose picture is stored, or None. Raises Refusal: 503, S3 does not answer."""
        manifest = await self._manifest(girl_id, job_id)
        return None if manifest is None else _status(manifest, self._store.url)

    async def digest(self, request: GenerationRequest) -> str | None:
        """The digest of the request whose picture is stored under this id. Raises Refusal: 503."""
        manifest = await self._manifest(request.girl_id, request.job_id)
        return None if manifest is None else str(manifest["request_digest"])

    async def _manifest(self, girl_id: str, job_id: str) -> Mapping[str, Any] | None:
        look = asyncio.get_running_loop().run_in_executor(self._threads, self._store.fetch_manifest, girl_id, job_id)
        try:
            return await look
        except (StoreUnavailable, RequestRejected):
            raise try_later("S3 does not answer, which alone knows about this job", 5) from None
        except ValueError:
            return None


def _status(manifest: Mapping[str, Any], url: Callable[[str], str]) -> GenerationStatus:
    event = owners_event(manifest, url=url, completed_at=_created_at(manifest))
    return GenerationStatus(
        job_id=event.job_id,
        girl_id=event.girl_id,
        user_id=event.user_id,
        status=JobStatus.COMPLETED,
        num_inference_steps=event.num_inference_steps,
        priority=event.priority,
        image_url=event.image_url,
        thumbnail_url=event.thumbnail_url,
        generation_time=event.generation_time,
        worker_id=event.worker_id,
        attempt=event.attempt,
        updated_at=event.completed_at,
    )


def _created_at(manifest: Mapping[str, Any]) -> datetime:
    try:
        moment = datetime.fromisoformat(manifest["run"]["created_at"])
    except (KeyError, TypeError, ValueError):
        return datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
