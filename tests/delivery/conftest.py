"""Fixtures: a finished picture, its encoding, and the model that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.delivery.s3_server import S3Server
from worker.call_sizes import CallSizes
from worker.delivery.encode import EncodedPicture, encode_picture
from worker.delivery.manifest import ModelInfo, build_manifest
from worker.events.types import GenerationRequest, Lora, OutputFormat
from worker.job import AppliedProfile, Job, Lane, Origin
from worker.picture import Picture, Timing
from worker.presets import Preset

CREATED_AT = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)


def sample_pixels(height: int = 96, width: int = 128) -> npt.NDArray[np.uint8]:
    """A smooth gradient with a little noise, the same on every call."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 3, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def sample_request(**changes: Any) -> GenerationRequest:
    defaults: dict[str, Any] = {
        "job_id": "job-1",
        "girl_id": "girl-1",
        "user_id": 7,
        "prompt": "a lighthouse",
        "negative_prompt": "fog",
        "affection_level": 50,
        "nsfw_level": 30,
        "width": 128,
        "height": 96,
        "loras": (Lora(name="ink", weight=0.8),),
        "requested_at": datetime(2026, 3, 1, 12, 0, tzinfo=UTC),
    }
    return GenerationRequest(**(defaults | changes))


def sample_picture(request: GenerationRequest) -> Picture:
    job = Job(
        request=request,
        lane=Lane.HIGH,
        origin=Origin("generation.requests.high", 0, 5, 1),
        seed=2**31 + 1,
        loras=(("ink", 0.8),),
        prompt=f"{request.prompt}, warm smile",
        negative_prompt=request.negative_prompt,
        attempt=2,
        requested_at=0.0,
        received_at=0.5,
        expires_at=None,
    )
    return Picture(job, sample_pixels(), Timing(queue=1.5, generation=2.25, gpu=1.8, started_at=1.5), nsfw_score=0.125)


@pytest.fixture
def pixels() -> npt.NDArray[np.uint8]:
    return sample_pixels()


@pytest.fixture
def model() -> ModelInfo:
    return ModelInfo(
        model_id="base",
        model_fingerprint="b" * 64,
        refiner_id="refiner",
        refiner_fingerprint="r" * 64,
        versions={"torch": "2.15.0", "diffusers": "0.42.0"},
        device="cpu",
        dtype="float32",
        deterministic=True,
        calls=CallSizes("cpu", "float32"),
    )


@pytest.fixture
def make_manifest(model: ModelInfo) -> Callable[..., tuple[EncodedPicture, dict[str, Any]]]:
    """Encodes and describes one picture; keyword arguments change the request."""

    def make(
        gpu_hourly_usd: float | None = 2.0,
        *,
        reproducible: bool = True,
        profile: AppliedProfile | None = None,
        preset: Preset | None = None,
        **changes: Any,
    ) -> tuple[EncodedPicture, dict[str, Any]]:
        request = sample_request(**changes)
        picture = sample_picture(request)
        picture = replace(picture, job=replace(picture.job, profile=profile, preset=preset), reproducible=reproducible)
        encoded = encode_picture(
            picture.pixels,
            output_format=request.output_format.value,
            jpeg_quality=90,
            thumbnail_px=64,
            job_id=request.job_id,
        )
        manifest = build_manifest(
            picture,
            encoded,
            model,
            lora_fingerprints={"ink": "f" * 64},
            worker_id="worker-1",
            created_at=CREATED_AT,
            gpu_hourly_usd=gpu_hourly_usd,
        )
        return encoded, manifest

    return make


@pytest.fixture(params=[OutputFormat.JPEG, OutputFormat.WEBP, OutputFormat.PNG])
def output_format(request: pytest.FixtureRequest) -> OutputFormat:
    chosen: OutputFormat = request.param
    return chosen


@pytest.fixture
def s3() -> Iterator[S3Server]:
    """A server of this test's own that gives any answer."""
    with S3Server() as server:
        yield server
