"""From pixels to a durable picture and its completed event; and the stored one of a repeated request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from worker.delivery.completed import completed_event, owners_event
from worker.delivery.digest import pixels_digest, request_digest
from worker.delivery.encode import check_pixels, encode_picture
from worker.delivery.keys import checkpoint_key, object_keys
from worker.delivery.manifest import ModelInfo, build_manifest
from worker.delivery.upload import PictureStore
from worker.errors import ErrorCode, RequestRejected
from worker.events.types import GenerationCompleted, Priority, timestamp
from worker.job import Job, Origin
from worker.picture import Picture
from worker.settings import Settings
from worker.telemetry import metrics

_log = structlog.get_logger()


class IdReused(RequestRejected):
    """The job's id has been used for another request before.

    Args:
        picture: that request's.
    """

    def __init__(self, picture: GenerationCompleted) -> None:
        super().__init__(
            ErrorCode.INVALID_REQUEST, "job_id was used before for a different request; ids must be unique"
        )
        self.picture = picture


@dataclass(frozen=True, slots=True)
class Finisher:
    """Encodes, uploads and describes pictures; every method may raise StoreUnavailable and be called again."""

    store: PictureStore
    model: ModelInfo
    settings: Settings
    # Told of what took how long: whose job, what, and from when to when in epoch seconds.
    phase: Callable[[Origin, str, float, float], None] = lambda *_: None
    # Scores a picture, and refuses or blurs it.
    screen: Callable[[Picture], Picture] = lambda picture: picture

    def finish(self, picture: Picture, now: float) -> GenerationCompleted:
        """Make the picture durable, manifest last.

        Raises:
            RequestRejected: `model_error`, when the picture is flat; `internal`, when S3 will never take it;
                `invalid_request`, when the id was used for a different request meanwhile; as `screen`.
        """
        job, settings = picture.job, self.settings
        flaw = check_pixels(picture.pixels)
        if flaw is not None:
            raise RequestRejected(ErrorCode.MODEL_ERROR, flaw)
        picture = self.screen(picture)
        before = time.perf_counter()
        encoded = encode_picture(
            picture.pixels,
            output_format=job.request.output_format,
            jpeg_quality=settings.jpeg_quality,
            thumbnail_px=settings.thumbnail_px,
            job_id=job.job_id,
        )
        between = time.perf_counter()
        manifest = build_manifest(
            picture,
            encoded,
            self.model,
            lora_fingerprints=picture.lora_fingerprints,
            worker_id=settings.worker_id,
            created_at=timestamp(now),
            gpu_hourly_usd=settings.gpu_hourly_usd,
        )
        keys = object_keys(job.request.girl_id, job.job_id, job.request.output_format)
        stored = self.store.put_picture(keys, encoded, manifest)
        encoding, upload = between - before, time.perf_counter() - between
        metrics.PHASE.labels("encode").observe(encoding)
        metrics.PHASE.labels("upload").observe(upload)
        self.phase(job.origin, "encode", now, now + encoding)
        self.phase(job.origin, "upload", now + encoding, now + encoding + upload)
        metrics.UPLOADS.labels("stored").inc()
        cost_usd = manifest["run"]["cost_usd"]
        if cost_usd is not None:
            metrics.COST.inc(cost_usd)
        # Another worker may have completed the picture first; then its manifest describes what is stored.
        return self._answer(stored, job, now)

    def store_checkpoint(self, job: Job) -> None:
        """Store the job's checkpoint, for whoever gets the job next; without one, that is done anew."""
        assert job.checkpoint is not None
        try:
            self.store.put_checkpoint(self._checkpoint_key(job), job.checkpoint)
        except RequestRejected as error:
            _log.warning("checkpoint_refused", error=error.message)

    def with_checkpoint(self, job: Job) -> Job:
        """The job with the checkpoint that another worker left of it, if there is one and they are wanted."""
        if not self.settings.checkpoint_jobs:
            return job
        try:
            return replace(job, checkpoint=self.store.fetch(self._checkpoint_key(job)))
        except RequestRejected:
            # Such a key was refused when the checkpoint was to be stored, too.
            return job

    def _checkpoint_key(self, job: Job) -> str:
        model = self.model.of(job)
        # Latents are the same however they will be decoded.
        del model["vae_tile_px"]
        if model["embeddings_fingerprint"] is None:
            # Younger than the first checkpoints, whose keys stay as they are.
            del model["embeddings_fingerprint"]
        return checkpoint_key(job.request.girl_id, job.job_id, pixels_digest(job, model))

    def stored(self, job: Job, now: float) -> GenerationCompleted | None:
        """The completed event of a picture that is in S3 already; None where there is none.

        Raises:
            IdReused: the id was used for a different request of the same girl.
            RequestRejected: `internal`, when S3 will never take its key.
        """
        manifest = self.store.fetch_manifest(job.request.girl_id, job.job_id)
        return None if manifest is None else self._answer(manifest, job, now)

    def _answer(self, manifest: Mapping[str, Any], job: Job, now: float) -> GenerationCompleted:
        if manifest["request_digest"] != request_digest(job.request):
            raise IdReused(owners_event(manifest, url=self.store.url, completed_at=timestamp(now)))
        return stored_event(manifest, job, self.store, self.settings, now)

    def picture_of(self, girl_id: str, job_id: str, now: float) -> GenerationCompleted | None:
        """The completed event of a stored picture, as it was for the request that it was made for."""
        try:
            manifest = self.store.fetch_manifest(girl_id, job_id)
        except ValueError:
            # Ids that no picture can have, and perhaps what the request was refused for.
            return None
        return None if manifest is None else owners_event(manifest, url=self.store.url, completed_at=timestamp(now))


def stored_event(
    manifest: Mapping[str, Any], job: Job, store: PictureStore, settings: Settings, now: float
) -> GenerationCompleted:
    """What is told of a stored picture when `job` is answered with it now."""
    return completed_event(
        manifest,
        url=store.url,
        priority=Priority(job.lane.label),
        worker_id=settings.worker_id,
        attempt=job.attempt,
        replay_id=job.replay_id,
        completed_at=timestamp(now),
    )
