"""Settings of what happens to finished pictures, and of the worker's end."""

from __future__ import annotations

from pydantic import Field

from worker.settings.section import DAY_S, Section


class DeliverySettings(Section):
    """Uploads and flushes, how long jobs may go on at the end, the pictures' files, and what a GPU costs."""

    upload_threads: int = Field(4, ge=1, le=64, description="threads that look up stored results, encode and upload")
    flush_interval_ms: int = Field(
        150,
        ge=1,
        le=10_000,
        description="milliseconds that a result waits at most for others, to be published with them",
    )
    revoke_timeout_s: float = Field(
        10.0, ge=0, le=180, description="seconds that running jobs of a revoked partition may go on"
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, le=DAY_S, description="seconds that running jobs may go on after SIGTERM"
    )
    checkpoint_jobs: bool = Field(
        False,
        description="store the latents of a running job in S3 when it is released, so that the next "
        "worker goes on from there",
    )
    thumbnail_px: int = Field(256, ge=16, le=4_096, description="longest side of the thumbnail, in pixels")
    jpeg_quality: int = Field(90, ge=1, le=100, description="quality of JPEG and WebP pictures, 1 to 100")

    gpu_hourly_usd: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="price of the device in dollars an hour; fills cost_usd of completed events",
    )
