"""All buckets of a worker: planned before it is ready (`warm_up.py`), used, and given up where one fails.

A call runs here only if the worker was told to expect its shape (COMPILE_SIZES) and the bucket agreed with its eager
twin; everything else is drawn as without the fast path. Nothing is compiled while the worker serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import structlog
import torch

from worker.call_sizes import CallSizes
from worker.engine.compiled.bucket import Bucket
from worker.engine.compiled.compiler import no_recompilation
from worker.engine.compiled.region import rows_of
from worker.engine.cost import CostModel, Group, Stage
from worker.engine.pipeline import SdxlModel
from worker.engine.row import Row
from worker.job import Job, LoraMethod
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


@dataclass(frozen=True, slots=True)
class WarmUpTimes:
    """What the warm-up has measured, in seconds and in its order, the cold ones included.

    Full steps by group, and decodes by the latents' (height, width).
    """

    steps: dict[Group, tuple[float, ...]] = field(default_factory=dict)
    decodes: dict[tuple[int, int], tuple[float, ...]] = field(default_factory=dict)

    def tell(self, cost: CostModel) -> None:
        """Let a cost model begin with what was measured."""
        for group, seconds in self.steps.items():
            cost.observe(group, rows_of(group), *seconds)
        for (height, width), seconds in self.decodes.items():
            cost.observe_decode(height, width, *seconds)


class FastPath:
    """The buckets that can be used, by group.

    Args:
        model: whose steps they are; None: there are none.
    """

    def __init__(self, model: SdxlModel | None = None) -> None:
        self.times = WarmUpTimes()
        self._model = model
        self._buckets: dict[Group, Bucket] = {}
        # Those that draw jobs with merged LoRAs too.
        self._merging: set[Group] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the buckets that can be used, and of those that LoRAs can be used with."""
        merging = [f"{name_of(group)} with LoRAs" for group in self._merging & self._buckets.keys()]
        return tuple(sorted([*map(name_of, self._buckets), *merging]))

    @property
    def groups(self) -> list[Group]:
        """The groups that have a bucket."""
        return list(self._buckets)

    def add(self, bucket: Bucket, *, merges: bool = False) -> None:
        """Use a bucket from now on; `merges`: for jobs with merged LoRAs too."""
        self._buckets[bucket.group] = bucket
        if merges:
            self._merging.add(bucket.group)
        metrics.COMPILED_BUCKETS.set(len(self._buckets))

    def draws(self, job: Job, groups: Sequence[Group]) -> bool:
        """Whether all steps of a job run here; it depends on the job and on this worker's buckets alone.

        Args:
            groups: those of its segments, with the size of their calls. Its LoRAs must be in the cache.
        """
        if job.compiled is False or self._model is None:
            return False
        buckets = [replace(group, compiled=True) for group in groups]
        if not all(bucket in self._buckets for bucket in buckets):
            return False
        match self._model.lora_methods.of(job):
            case None:
                return True
            case LoraMethod.HOOKS:
                # Which a compiled step does not run.
                return False
        merging = all(bucket in self._merging for bucket in buckets if bucket.stage is Stage.BASE)
        # With a bias more, the step would be another one.
        return merging and not self._model.lora_cache.add_biases(job.loras)

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
                bucket.step(rows, second_copy=self._has_second_copy() and rows[0].conditioning.merged is not None)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiled step raises, the eager one can still draw
            del self._buckets[group]
            metrics.COMPILED_BUCKETS.set(len(self._buckets))
            metrics.COMPILED_FALLBACKS.inc()
            _log.error(
                "bucket_given_up", bucket=name_of(group), reason=line_of(error), hint="drawn eagerly from now on"
            )
            return False
        return True

    def forget(self) -> None:
        """Free what is kept of the last rows, and the graphs for a second copy that was given up."""
        for bucket in self._buckets.values():
            bucket.forget()
            if not self._has_second_copy():
                bucket.drop_merged()

    def _has_second_copy(self) -> bool:
        return self._model is not None and self._model.lora_cache.exchange.has_second_copy


def name_of(group: Group) -> str:
    """Name a bucket, as `base 128x128 77x1 guided 2`: stage, latents' width and height, tokens, guidance, samples."""
    guided = "guided" if group.guided else "unguided"
    return f"{group.stage.name.lower()} {group.width}x{group.height} 77x{group.chunks} {guided} {group.samples}"


def line_of(error: Exception) -> str:
    """The first line of a compiler's message, which can have hundreds."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
