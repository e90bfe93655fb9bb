"""Compile, run and check every bucket before the worker is ready, and measure how long its work takes.

A bucket is checked twice where LoRAs can be merged into a second copy of the weights: with the model's own weights, and
with a second copy that holds others, so that a step which computes with the wrong ones is seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import structlog
import torch

from worker.engine.accelerator import Accelerator
from worker.engine.compiled.bucket import Bucket
from worker.engine.compiled.compiler import Compiler, graphs
from worker.engine.compiled.fast_path import FastPath, line_of, name_of
from worker.engine.compiled.region import make_inputs, make_region
from worker.engine.compiled.self_check import Checked, SelfCheckFailed, check, make_rows
from worker.engine.cost import Group, Stage
from worker.engine.decode import decode
from worker.engine.denoise import Denoiser
from worker.engine.measured_times import WARM_ENOUGH
from worker.engine.pipeline import SdxlModel
from worker.errors import RequestRejected
from worker.job import Job
from worker.telemetry import metrics

# What the second copy holds while it is checked, as parts of the model's own weights: less, so that nothing overflows,
# and so much less that the difference is far beyond any tolerance.
_SCALE = 0.75
# A cold decode, and as many warm ones as make a bound.
_DECODES = 1 + WARM_ENOUGH

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Tools:
    model: SdxlModel
    job: Job
    compiler: Compiler
    accelerator: Accelerator
    clock: Callable[[], float]


def warm_up(
    model: SdxlModel,
    groups: Iterable[Group],
    job: Job,
    *,
    compiler: Compiler,
    accelerator: Accelerator,
    clock: Callable[[], float] = time.monotonic,
) -> FastPath:
    """Compile, run and check a bucket for each group; one that fails is left out, with a line in the log.

    Args:
        job: whose prompt the checks are drawn with; guided.
        clock: seconds that nobody sets.
    """
    fast, tools = FastPath(model), _Tools(model, job, compiler, accelerator, clock)
    if model.merges_loras:
        model.lora_cache.reserve_second_copy()
    with torch.inference_mode():
        for group in groups:
            _add(fast, group, tools)
        for height, width in dict.fromkeys((group.height, group.width) for group in fast.groups):
            fast.times.decodes[height, width] = _decode_seconds(tools, height, width)
    accelerator.settle()
    return fast


def _add(fast: FastPath, group: Group, tools: _Tools) -> None:
    """Add the bucket of a group, if it passes its check."""
    _log.info("bucket_compiling", bucket=name_of(group))
    before, graphs_before = tools.clock(), graphs()
    with _LeftOut(name_of(group)) as attempt:
        bucket, checked, again = _checked(group, tools)
        merges = tools.model.merges_loras and group.stage is Stage.BASE and _merges(bucket, tools, again)
        fast.add(bucket, merges=merges)
        fast.times.steps[group] = checked.seconds
    if attempt.failed:
        return
    _log.info(
        "bucket_ready",
        bucket=name_of(group),
        seconds=round(tools.clock() - before, 1),
        graphs=graphs() - graphs_before,
        loras=merges,
        latents_sha256=checked.latents,
    )


_Again = Callable[..., Checked]


def _checked(group: Group, tools: _Tools) -> tuple[Bucket, Checked, _Again]:
    """Return a bucket, what its check has found, and the check, to be repeated with the second copy."""
    model, stage = tools.model, group.stage
    model.bring(stage)
    unet, config, rescale = model.unet(stage), model.scheduler_config(stage), model.guidance_rescale(stage)
    conditioning, channels = model.condition(tools.job, stage), int(unet.config.in_channels)
    rows = partial(make_rows, group, tools.job, conditioning, config, channels)
    first = rows()[0].conditioning
    inputs = make_inputs(group, channels=channels, prompt=first.prompt, pooled=first.pooled, time_ids=first.time_ids)
    region = make_region(unet, group, rescale=rescale, velocity=config.prediction_type == "v_prediction")
    bucket = Bucket(group, tools.compiler.compile(region), inputs, tools.accelerator)
    again = partial(check, bucket, Denoiser(unet, rescale=rescale), rows, tools.accelerator, tools.clock)
    return bucket, again(), again


def _merges(bucket: Bucket, tools: _Tools, again: _Again) -> bool:
    """Whether the bucket draws pictures with merged LoRAs too.

    Without a second copy they are merged into the weights that it was captured and checked with.
    """
    exchange = tools.model.lora_cache.exchange
    if not exchange.has_second_copy:
        return True
    with _LeftOut(f"{name_of(bucket.group)} with LoRAs") as attempt, exchange.scaled(_SCALE):
        bucket.capture_merged()
        again(second_copy=True)
    if attempt.failed:
        bucket.drop_merged()
    return not attempt.failed


class _LeftOut:
    """Turns whatever a block raises, but a signal, into one line in the log and `failed`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.failed = False

    def __enter__(self) -> _LeftOut:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        match error:
            case None:
                return True
            case torch.OutOfMemoryError():
                reason = "it needs more memory than there is"
            case SelfCheckFailed():
                reason = str(error)
            case Exception():  # a compiler may raise anything, and none of it is a reason not to draw
                reason = line_of(error)
            case _:
                return False
        self.failed = True
        metrics.COMPILED_FALLBACKS.inc()
        _log.warning("bucket_left_out", bucket=self._name, reason=reason, hint="its pictures are drawn eagerly")
        return True


def _decode_seconds(tools: _Tools, height: int, width: int) -> tuple[float, ...]:
    """What decoding a picture takes, each time; nothing where there is too little memory for it now."""
    model = tools.model
    noise = torch.randn(1, int(model.base.unet.config.in_channels), height, width, generator=torch.Generator("cpu"))
    latents = noise.to(model.device, model.base.unet.dtype)
    seconds = []
    for _ in range(_DECODES):
        before = tools.clock()
        try:
            decode(model.vae(Stage.BASE), latents)
        except RequestRejected:
            pass  # Noise is no picture; it took its time all the same.
        except torch.OutOfMemoryError:
            return ()
        seconds.append(tools.clock() - before)
    return tuple(seconds)
