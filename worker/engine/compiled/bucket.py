"""One bucket of the fast path: the compiled step of one group, with its inputs in place.

A captured graph computes with the weights where they lay when it was captured. So there are two graphs of the same
compiled step, which share the inputs: one for the model's own weights, and one for the second copy, into which LoRAs
are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_not

import torch

from worker.engine.accelerator import Accelerator, Tensors
from worker.engine.compiled.region import Inputs, Region, rows_of
from worker.engine.compiled.solvers import RowSolvers
from worker.engine.cost import Group
from worker.engine.row import Row


@dataclass(slots=True)
class _Held:
    """The rows that the inputs were last filled for: their latents and each row's `held`."""

    latents: torch.Tensor
    held: Sequence[tuple[torch.Tensor, int]]
    solvers: RowSolvers


class Bucket:
    """Runs the steps of one group of rows.

    Args:
        region: as compiled, or as it is.
        inputs: made for `group`; nobody else writes into them.
    """

    def __init__(self, group: Group, region: Region, inputs: Inputs, accelerator: Accelerator) -> None:
        self.group = group
        self._inputs = inputs
        self._held: _Held | None = None
        self._accelerator = accelerator
        arguments = inputs.all()
        self._region: Callable[[], Tensors] = lambda: region(*arguments)
        self._own = accelerator.graph(self._region)
        self._merged: Callable[[], Tensors] | None = None

    def capture_merged(self) -> None:
        """Capture the step for the second copy, which the model must be computing with."""
        self._merged = self._accelerator.graph(self._region)

    def drop_merged(self) -> None:
        """Forget the graph for the second copy, which must not be replayed once that copy is freed."""
        self._merged = None

    def step(self, rows: Sequence[Row], *, second_copy: bool = False) -> None:
        """Advance every row by one step; all rows must be of the bucket's group. If this raises, all are unchanged.

        Args:
            second_copy: compute with the second copy of the weights instead of the model's own.
        """
        call = self._own
        if second_copy:
            assert self._merged is not None, "the step was not captured for the second copy"
            call = self._merged
        batch = self._batch_of(rows)
        batch.solvers.fill(self._inputs, batch.latents)
        noise, stepped, x0 = call()
        try:
            latents = batch.solvers.take((noise, stepped, x0), batch.latents)
        except BaseException:
            self._held = None
            raise
        batch.latents = latents
        batch.held = [(latents, place) for place in range(len(rows))]
        for row, held in zip(rows, batch.held, strict=True):
            row.held = held
            row.steps_done += 1

    def forget(self) -> None:
        """Free what is kept of the last rows."""
        self._held = None

    def _batch_of(self, rows: Sequence[Row]) -> _Held:
        known = self._held
        # `held` is a new object after every step, so identity shows that these rows were stepped last, and here.
        if known is None or len(known.held) != len(rows) or any(map(is_not, known.held, [row.held for row in rows])):
            known = self._held = self._stack(rows)
        return known

    def _stack(self, rows: Sequence[Row]) -> _Held:
        inputs, conditions = self._inputs, [row.conditioning for row in rows]
        padding = rows_of(self.group) - len(rows)
        padded = [*conditions, *[conditions[0]] * padding]
        negatives = [condition for condition in padded if condition.guided]
        latents = torch.cat([row.latents for row in rows])

        def put(buffer: torch.Tensor, negative: list[torch.Tensor | None], positive: list[torch.Tensor]) -> None:
            torch.cat([part for part in negative if part is not None] + positive, out=buffer)

        put(inputs.prompt, [c.negative_prompt for c in negatives], [c.prompt for c in padded])
        put(inputs.pooled, [c.negative_pooled for c in negatives], [c.pooled for c in padded])
        put(inputs.time_ids, [c.negative_time_ids for c in negatives], [c.time_ids for c in padded])
        scales = torch.tensor([condition.guidance_scale for condition in padded], dtype=torch.float32)
        inputs.scale.copy_(scales.view(-1, 1, 1, 1))
        solvers = RowSolvers([row.sampler for row in rows], len(padded), latents.device)
        return _Held(latents, [row.held for row in rows], solvers)
