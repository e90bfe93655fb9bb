"""Hold a bucket against its eager twin, which draws with diffusers' bits, before it draws for anybody."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from worker.engine.accelerator import Accelerator
from worker.engine.compiled.bucket import Bucket
from worker.engine.compiled.region import rows_of
from worker.engine.cost import Group
from worker.engine.denoise import Denoiser
from worker.engine.row import Conditioning, Row
from worker.engine.samplers import make_sampler
from worker.job import Job

# Differences that compiled kernels may make: other orders of summation, and fewer roundings where operations are fused.
# By precision: the largest root mean square of the difference over that of what the steps change.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}

# A first-order and a second-order one.
_STEPS_CHECKED = 2
_STEPS, _SEED = 4, 0
_SCHEDULER = "DPMSolverMultistepScheduler"
_HASH_DIGITS = 16


class SelfCheckFailed(Exception):
    """A bucket draws something else than its eager twin, or not the same twice."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check has found.

    `latents` are 16 hex digits of the bucket's latents, to be compared between cards of one kind; `seconds` what each
    of its steps took, in their order.
    """

    latents: str
    seconds: tuple[float, ...]


def check(
    bucket: Bucket,
    eager: Denoiser,
    make_rows: Callable[[], list[Row]],
    accelerator: Accelerator,
    clock: Callable[[], float],
    *,
    second_copy: bool = False,
) -> Checked:
    """Run the same steps on both, and on the bucket twice.

    Args:
        make_rows: new rows at their first step, the same at every call.
        second_copy: the model computes with the second copy of its weights, and so shall the bucket.

    Raises:
        SelfCheckFailed: the sentence says by how much they differ.
    """
    seconds: list[float] = []

    def step(rows: list[Row]) -> None:
        key = bucket.group, second_copy
        seconds.append(accelerator.step(lambda: bucket.step(rows, second_copy=second_copy), key, clock))

    begun = _latents(make_rows())
    expected = _drawn(make_rows(), lambda rows: eager.step(rows, bucket.group.samples))
    found, again = _drawn(make_rows(), step), _drawn(make_rows(), step)
    bucket.forget()
    eager.forget()
    difference, limit = _difference(found, expected, begun), TOLERANCES[found.dtype]
    if not difference <= limit:  # NaN too
        raise SelfCheckFailed(f"it differs from the eager steps by {difference:.2g} (at most {limit:g} is tolerated)")
    if not torch.equal(found, again):
        raise SelfCheckFailed("it draws the same steps with other bits the second time")
    digest = hashlib.sha256(found.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return Checked(digest.hexdigest()[:_HASH_DIGITS], tuple(seconds))


def make_rows(group: Group, job: Job, conditioning: Conditioning, config: Any, channels: int) -> list[Row]:
    """Return a full call of rows of a group at their first step, each with other noise.

    Args:
        conditioning: of any prompt of one chunk, guided.
        config: the model's scheduler configuration.
        channels: of the latents.
    """
    condition = _for_group(conditioning, group)
    device, dtype = condition.prompt.device, condition.prompt.dtype
    generator = torch.Generator("cpu").manual_seed(_SEED)
    rows = []
    for _ in range(rows_of(group)):
        sampler = make_sampler(
            _SCHEDULER, config, _STEPS, group.stage, refined=False, device=device, generator=generator
        )
        noise = torch.randn(1, channels, group.height, group.width, generator=generator)
        latents = (noise * sampler.scheduler.init_noise_sigma).to(device, dtype)
        rows.append(Row(job, group.stage, (latents, 0), sampler, condition, generator, started_at=0.0))
    return rows


def _for_group(conditioning: Conditioning, group: Group) -> Conditioning:
    """Bring a guided conditioning of one chunk to the chunks and the guidance of a group."""
    negative = conditioning.negative_prompt
    assert negative is not None
    longer = replace(
        conditioning,
        prompt=conditioning.prompt.repeat(1, group.chunks, 1),
        negative_prompt=negative.repeat(1, group.chunks, 1),
    )
    if group.guided:
        return longer
    return replace(longer, guidance_scale=1.0, negative_prompt=None, negative_pooled=None, negative_time_ids=None)


def _drawn(rows: list[Row], step: Callable[[list[Row]], None]) -> torch.Tensor:
    for _ in range(_STEPS_CHECKED):
        step(rows)
    return _latents(rows)


def _latents(rows: list[Row]) -> torch.Tensor:
    return torch.cat([row.latents for row in rows])


def _difference(found: torch.Tensor, expected: torch.Tensor, begun: torch.Tensor) -> float:
    found, expected, begun = (tensor.double() for tensor in (found, expected, begun))
    change = (expected - begun).square().mean().sqrt()
    return float((found - expected).square().mean().sqrt() / change)
