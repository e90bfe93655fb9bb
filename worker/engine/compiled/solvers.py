"""The schedules of the rows of a compiled call: what the region needs at each step, and what becomes of its outputs.

A step copies from one place of the device to another only: timesteps and coefficients of all coming steps are put
there when the rows of the call change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.engine.compiled.region import Inputs, Outputs
from worker.engine.samplers import Sampler


class RowSolvers:
    """The samplers of the rows of one call; valid until its rows change.

    Args:
        samplers: one per row.
        rows: those of the call, which the first row is repeated to fill.
        device: that of the latents.
    """

    def __init__(self, samplers: Sequence[Sampler], rows: int, device: torch.device) -> None:
        self._samplers = samplers
        self._slow = [i for i, sampler in enumerate(samplers) if sampler.table is None]
        coming = min(len(sampler.timesteps) - sampler.index for sampler in samplers)
        padded = [*samplers, *[samplers[0]] * (rows - len(samplers))]
        timesteps = [sampler.timesteps[sampler.index : sampler.index + coming] for sampler in padded]
        self._timesteps = torch.stack([steps.to(device, torch.float32) for steps in timesteps], dim=1).unbind(0)
        tables = [_table(sampler, coming, device) for sampler in padded]
        self._tables = torch.stack(tables, dim=2)[:, :, :, None, None, None].unbind(0)
        self._done = 0
        self._previous: torch.Tensor | None = None

    def fill(self, inputs: Inputs, latents: torch.Tensor) -> None:
        """Fill the inputs that change from step to step; `latents` is (rows, C, h, w) without padding."""
        _fill(inputs.latents, latents)
        _fill(inputs.model_input, self._model_input(latents) if self._slow else latents)
        _fill(inputs.previous, self._before(latents) if self._previous is None else self._previous)
        inputs.timesteps.copy_(self._timesteps[self._done])
        inputs.table.copy_(self._tables[self._done])

    def take(self, outputs: Outputs, latents: torch.Tensor) -> torch.Tensor:
        """Advance all samplers by one step and return the next latents; if this raises, none is advanced.

        Args:
            outputs: the region's, which nothing may overwrite afterwards.
            latents: those that `fill` was called with.
        """
        rows = len(self._samplers)
        noise, stepped, x0 = (output[:rows] for output in outputs)
        saved = [self._samplers[i].save() for i in self._slow]
        try:
            if self._slow:
                parts = [*torch.split(stepped, 1)]
                for i in self._slow:
                    parts[i] = self._samplers[i].step(noise[i : i + 1], latents[i : i + 1])
                stepped = torch.cat(parts)
        except BaseException:
            for i, state in zip(self._slow, saved, strict=True):
                self._samplers[i].load(state)
            raise
        self._previous = x0
        self._done += 1
        for i, sampler in enumerate(self._samplers):
            sampler.index += 1
            if sampler.table is not None:
                sampler.previous = x0, i
        return stepped

    def _model_input(self, latents: torch.Tensor) -> torch.Tensor:
        parts = zip(self._samplers, torch.split(latents, 1), strict=True)
        return torch.cat([sampler.model_input(part) for sampler, part in parts])

    def _before(self, latents: torch.Tensor) -> torch.Tensor:
        """The x0 of each row's last step; a first step multiplies it by zero, so anything finite serves there."""
        kept = [sampler.previous or (latents, i) for i, sampler in enumerate(self._samplers)]
        return torch.cat([together[i : i + 1] for together, i in kept])


def _table(sampler: Sampler, coming: int, device: torch.device) -> torch.Tensor:
    """Coefficients of the coming steps, (coming, 6); ones for a row whose update is not used."""
    if sampler.table is None:
        return torch.ones(coming, 6, device=device)
    return sampler.table[sampler.index : sampler.index + coming]


def _fill(buffer: torch.Tensor, rows: torch.Tensor) -> None:
    count = len(rows)
    buffer[:count].copy_(rows)
    if count < len(buffer):
        buffer[count:].copy_(rows[:1].expand(len(buffer) - count, *rows.shape[1:]))
