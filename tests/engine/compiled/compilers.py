"""Stand-ins for the compiler: the region as it is, and what may go wrong with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.engine.scenario import SLOTS, make_job
from worker.call_sizes import CallSizes
from worker.engine.accelerator import Accelerator, Tensors
from worker.engine.compiled.compiler import Compiler
from worker.engine.compiled.fast_path import FastPath, Plan
from worker.engine.compiled.region import Outputs, Region
from worker.engine.compiled.warm_up import warm_up
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


class Capturing(Accelerator):
    """Captures graphs as CUDA does: a replay computes with the weights that lie where they lay, whatever has been put
    in their place, and knows nothing of weights that came later.
    """

    def __init__(self, unet: Any) -> None:
        self.captured = self.replayed = 0
        self._modules = list(unet.modules())

    def graph(self, call: Callable[[], Tensors]) -> Callable[[], Tensors]:
        self.captured += 1
        call()
        weights = [
            (module, name, None if parameter is None else parameter.data)
            for module in self._modules
            for name, parameter in module._parameters.items()
        ]

        def replay() -> Tensors:
            self.replayed += 1
            with self._put(weights):
                return tuple(output.clone() for output in call())

        return replay

    @contextmanager
    def _put(self, weights: Sequence[tuple[Any, str, torch.Tensor | None]]) -> Iterator[None]:
        before = [dict(module._parameters) for module in self._modules]
        with torch.inference_mode(False):
            for module, name, data in weights:
                module._parameters[name] = None if data is None else torch.nn.Parameter(data, requires_grad=False)
        try:
            yield
        finally:
            for module, parameters in zip(self._modules, before, strict=True):
                module._parameters.clear()
                module._parameters.update(parameters)


def fast_path(
    model: SdxlModel,
    compiler: Compiler | None = None,
    *,
    accelerator: Accelerator | None = None,
    clock: Callable[[], float] = time.monotonic,
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
        accelerator=Accelerator() if accelerator is None else accelerator,
        clock=clock,
    )
