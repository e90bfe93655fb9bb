"""Stand-ins for the compiler: the region as it is, and what may go wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from tests.engine.scenario import SLOTS, make_job
from worker.call_sizes import CallSizes
from worker.engine.accelerator import Accelerator
from worker.engine.compiled.compiler import Compiler
from worker.engine.compiled.fast_path import FastPath, Plan, warm_up
from worker.engine.compiled.region import Outputs, Region
from worker.engine.cost import Stage
from worker.engine.pipeline import SdxlModel

SIDE = (64, 64)


@dataclass(frozen=True, slots=True)
class NotCompiled(Compiler):
    """Returns each region as it is, changed by `spoil`; `made` counts them."""

    spoil: Callable[[Region], Region] = lambda region: region
    made: list[Region] = field(default_factory=list)

    def compile(self, region: Region) -> Region:
        self.made.append(region)
        return self.spoil(region)


def spoiled(change: Callable[[Outputs], Outputs]) -> NotCompiled:
    """A compiler whose regions return something else."""
    return NotCompiled(spoil=lambda region: lambda *inputs: change(region(*inputs)))


def failing(error: BaseException, after: int = 0) -> NotCompiled:
    """A compiler whose regions raise `error` from the call after so many on."""
    calls = iter(range(1_000_000))

    def spoil(region: Region) -> Region:
        def call(*inputs: torch.Tensor) -> Outputs:
            if next(calls) >= after:
                raise error
            return region(*inputs)

        return call

    return NotCompiled(spoil=spoil)


def fast_path(
    model: SdxlModel,
    compiler: Compiler | None = None,
    *,
    sizes: Sequence[tuple[int, int]] = (SIDE,),
    chunks: int = 1,
    guided: bool = True,
    stages: Sequence[Stage] = (Stage.BASE,),
) -> FastPath:
    """Warm up the buckets of these pictures with the call sizes of `scenario.stage`."""
    groups = Plan(tuple(sizes), chunks, guided).groups(
        stages, CallSizes("cpu", "float32", SLOTS), model.base.vae_scale_factor
    )
    return warm_up(
        model,
        groups,
        make_job("check", guidance=5.0),
        compiler=NotCompiled() if compiler is None else compiler,
        accelerator=Accelerator(),
    )
