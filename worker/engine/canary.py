"""A small picture that every start draws, so that cards that should agree can be compared by its hash."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch

from worker.engine.cost import Stage
from worker.engine.denoise import Denoiser
from worker.engine.pipeline import SdxlModel
from worker.engine.trial import trial_job
from worker.errors import RequestRejected

_STEPS = 2
_HASH_DIGITS = 16


@torch.inference_mode()
def canary(model: SdxlModel) -> str | None:
    """Return 16 hex digits of the SHA-256 of a picture's pixels: 64 × 64, two steps, always of the same request.

    Equal digits mean that two workers draw the same bits eagerly; None: the model draws nothing in two steps.
    """
    job = trial_job()
    request = replace(job.request, num_inference_steps=_STEPS, guidance_scale=1.0)
    row = model.prepare(replace(job, request=request), 0.0)
    denoiser = Denoiser(model.unet(Stage.BASE), rescale=model.guidance_rescale(Stage.BASE))
    while not row.sampler.over:
        denoiser.step([row], None)
    try:
        pixels = model.decode(row)
    except RequestRejected:
        return None
    finally:
        model.forget_prompts()
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:_HASH_DIGITS]
