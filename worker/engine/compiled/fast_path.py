"""All buckets of a worker: planned, compiled and checked before it is ready, and given up where one fails.

A call runs here only if the worker was told to expect its shape (COMPILE_SIZES) and the bucket agreed with its eager
twin; everything else is drawn as without the fast path. Nothing is compiled while the worker serves.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog
import torch

from worker.call_sizes import CallSizes
from worker.engine.accelerator import Accelerator
from worker.engine.compiled.bucket import Bucket
from worker.engine.compiled.compiler import Compiler, graphs, no_recompilation
from worker.engine.compiled.region import make_inputs, make_region
from worker.engine.compiled.self_check import SelfCheckFailed, check, make_rows
from worker.engine.cost import Group, Stage
from worker.engine.denoise import Denoiser
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row
from worker.job import Job
from worker.telemetry import metrics

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls that a worker is to be fast for.

    Args:
        sizes: (width, height) of pictures in pixels.
        chunks: prompts of up to so many chunks of 75 tokens.
        guided: whether pictures are drawn with guidance.
    """

    sizes: tuple[tuple[int, int], ...]
    chunks: int
    guided: bool

    def groups(self, stages: Iterable[Stage], calls: CallSizes, factor: int) -> list[Group]:
        """Return the groups of these calls; `factor` is the VAE's, from latents to pixels."""
        return [
            Group(
                stage,
                height // factor,
                width // factor,
                chunks,
                self.guided,
                calls.of_picture(height, width, guided=self.guided),
                compiled=True,
            )
            for stage in stages
            for width, height in self.sizes
            for chunks in range(1, self.chunks + 1)
        ]


class FastPath:
    """The buckets that can be used, by group."""

    def __init__(self) -> None:
        self._buckets: dict[Group, Bucket] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the buckets that can be used."""
        return tuple(sorted(map(name_of, self._buckets)))

    def add(self, bucket: Bucket) -> None:
        """Use a bucket from now on."""
        self._buckets[bucket.group] = bucket
        metrics.COMPILED_BUCKETS.set(len(self._buckets))

    def draws(self, job: Job, groups: Sequence[Group]) -> bool:
        """Whether all steps of a job run here; it depends on the job and on this worker's buckets alone.

        Args:
            groups: those of its segments, with the size of their calls.
        """
        if job.compiled is False or any(weight for _, weight in job.loras):
            # LoRAs are hooks, which a compiled step does not run.
            return False
        return all(replace(group, compiled=True) in self._buckets for group in groups)

    def step(self, group: Group, rows: Sequence[Row]) -> bool:
        """Advance every row by one step; False, with every row unchanged, where the group has no bucket (any more).

        Raises:
            torch.OutOfMemoryError: every row is unchanged.
        """
        bucket = self._buckets.get(group)
        if bucket is None:
            return False
        try:
            with no_recompilation():
                bucket.step(rows)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiled step raises, the eager one can still draw
            del self._buckets[group]
            metrics.COMPILED_BUCKETS.set(len(self._buckets))
            metrics.COMPILED_FALLBACKS.inc()
            _log.error("bucket_given_up", bucket=name_of(group), reason=_line(error), hint="drawn eagerly from now on")
            return False
        return True

    def forget(self) -> None:
        """Free what is kept of the last rows."""
        for bucket in self._buckets.values():
            bucket.forget()


def warm_up(
    model: SdxlModel,
    groups: Iterable[Group],
    job: Job,
    *,
    compiler: Compiler,
    accelerator: Accelerator,
) -> FastPath:
    """Compile, run and check a bucket for each group; one that fails is left out, with a line in the log.

    Args:
        job: whose prompt the checks are drawn with; guided.
    """
    fast = FastPath()
    for group in groups:
        _log.info("bucket_compiling", bucket=name_of(group))
        before, graphs_before = time.monotonic(), graphs()
        try:
            with torch.inference_mode():
                bucket, latents = _checked(model, group, job, compiler, accelerator)
        except torch.OutOfMemoryError:
            _left_out(group, "it needs more memory than there is")
        except SelfCheckFailed as error:
            _left_out(group, str(error))
        except Exception as error:  # a compiler may raise anything, and none of it is a reason not to draw
            _left_out(group, _line(error))
        else:
            fast.add(bucket)
            _log.info(
                "bucket_ready",
                bucket=name_of(group),
                seconds=round(time.monotonic() - before, 1),
                graphs=graphs() - graphs_before,
                latents_sha256=latents,
            )
    accelerator.settle()
    return fast


def name_of(group: Group) -> str:
    """Name a bucket, as `base 128x128 77x1 guided 2`: stage, latents' width and height, tokens, guidance, samples."""
    guided = "guided" if group.guided else "unguided"
    return f"{group.stage.name.lower()} {group.width}x{group.height} 77x{group.chunks} {guided} {group.samples}"


def _checked(
    model: SdxlModel, group: Group, job: Job, compiler: Compiler, accelerator: Accelerator
) -> tuple[Bucket, str]:
    stage = group.stage
    model.bring(stage)
    unet, config, rescale = model.unet(stage), model.scheduler_config(stage), model.guidance_rescale(stage)
    conditioning, channels = model.condition(job, stage), int(unet.config.in_channels)
    rows = partial(make_rows, group, job, conditioning, config, channels)
    first = rows()[0].conditioning
    inputs = make_inputs(group, channels=channels, prompt=first.prompt, pooled=first.pooled, time_ids=first.time_ids)
    region = make_region(unet, group, rescale=rescale, velocity=config.prediction_type == "v_prediction")
    bucket = Bucket(group, compiler.compile(region), inputs, accelerator)
    return bucket, check(bucket, Denoiser(unet, rescale=rescale), rows)


def _left_out(group: Group, reason: str) -> None:
    metrics.COMPILED_FALLBACKS.inc()
    _log.warning("bucket_left_out", bucket=name_of(group), reason=reason, hint="its pictures are drawn eagerly")


def _line(error: Exception) -> str:
    """The first line of a compiler's message, which can have hundreds."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
