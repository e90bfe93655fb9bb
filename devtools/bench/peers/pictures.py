"""How the peers draw and store: diffusers' pipeline as its documentation calls it, and three PUTs by boto3."""

from __future__ import annotations

import io
import json
import os
import time
from typing import TYPE_CHECKING, Any

from PIL import Image

from devtools.bench.peers.requests import Completed, Request

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

THUMBNAIL_PX = 256
JPEG_QUALITY = 90


class Studio:
    """A pipeline and a bucket. With STAND_IN_S, the pipeline sleeps so many seconds and draws nothing."""

    def __init__(self) -> None:
        import boto3

        stand_in = os.environ.get("STAND_IN_S")
        self._sleep_s = None if stand_in is None else float(stand_in)
        self._pipe: Any = None if stand_in is not None else make_pipeline()
        self._s3: S3Client = boto3.client("s3")
        self._bucket = os.environ["AWS_S3_BUCKET"]

    def draw(self, request: Request) -> Image.Image:
        """Draw a picture."""
        if self._sleep_s is not None:
            time.sleep(self._sleep_s)
            return Image.new("RGB", (request.width, request.height))
        import torch

        drawn = self._pipe(
            request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            width=request.width,
            height=request.height,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]
        assert isinstance(drawn, Image.Image)
        return drawn

    def store(self, request: Request, picture: Image.Image, began: float) -> Completed:
        """Store picture, thumbnail and manifest; return what is told of them."""
        image_key = f"pictures/{request.job_id}.jpg"
        self._put(image_key, _jpeg(picture), "image/jpeg")
        thumbnail = picture.copy()
        thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        self._put(f"pictures/{request.job_id}_thumb.jpg", _jpeg(thumbnail), "image/jpeg")
        done = Completed(job_id=request.job_id, image_key=image_key, seconds=time.time() - began)
        manifest = json.dumps({"request": request.model_dump(), "seconds": done.seconds}).encode()
        self._put(f"manifests/{request.job_id}.json", manifest, "application/json")
        return done

    def _put(self, key: str, body: bytes, content_type: str) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType=content_type)


def make_pipeline() -> Any:
    """Load the pipeline of SDXL_MODEL_ID, with one torch thread and the scheduler that is this worker's default."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline

    torch.set_num_threads(1)
    pipe: Any = StableDiffusionXLPipeline.from_pretrained(os.environ["SDXL_MODEL_ID"], torch_dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _jpeg(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
