"""Advance all rows of a batch in one update, each by its own scheduler and at its own step.

Rows usually share a batch for many steps, so the coefficients and timesteps of the coming steps are stacked once, and
a step does not have to gather them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.engine.samplers import Sampler


class BatchedSampler:
    """The samplers of the rows of one batch; valid until the rows of the batch change.

    Args:
        samplers: one per row.
        order: index of the row of every UNet sample, (samples,).
    """

    def __init__(self, samplers: Sequence[Sampler], order: torch.Tensor) -> None:
        self._samplers = samplers
        self._order = order
        self._slow = [i for i, sampler in enumerate(samplers) if sampler.table is None]
        self._fast = [i for i, sampler in enumerate(samplers) if sampler.table is not None]
        self._vector = _Vector([samplers[i] for i in self._fast]) if self._fast else None
        self._timesteps = None if self._vector is None or self._slow else self._vector.timesteps(order)

    def unet_input(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the UNet's samples, (samples, C, h, w), and their timesteps; `latents` is (rows, C, h, w)."""
        if self._timesteps is not None and self._vector is not None:
            return latents.index_select(0, self._order), self._timesteps[self._vector.done]
        scaled = [s.model_input(part) for s, part in zip(self._samplers, torch.split(latents, 1), strict=True)]
        timesteps = torch.stack([sampler.timestep for sampler in self._samplers])
        return torch.cat(scaled).index_select(0, self._order), timesteps[self._order]

    def step(self, noise: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Advance all samplers by one step; if this raises, all of them are left unchanged.

        Args:
            noise: the guided noise prediction, (rows, C, h, w).
            latents: (rows, C, h, w).

        Returns:
            The next latents, (rows, C, h, w).
        """
        saved = [self._samplers[i].save() for i in self._slow]
        try:
            stepped, x0 = self._mixed(noise, latents) if self._slow else self._all_fast(noise, latents)
        except BaseException:
            for i, state in zip(self._slow, saved, strict=True):
                self._samplers[i].load(state)
            raise
        if self._vector is not None and x0 is not None:
            self._vector.advance(x0)
        for sampler in self._samplers:
            sampler.index += 1
        return stepped

    def _all_fast(self, noise: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._vector is not None
        return self._vector.step(noise, latents)

    def _mixed(self, noise: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        parts = {i: self._samplers[i].step(noise[i : i + 1], latents[i : i + 1]) for i in self._slow}
        x0 = None
        if self._vector is not None:
            together, x0 = self._vector.step(noise[self._fast], latents[self._fast])
            parts |= zip(self._fast, torch.split(together, 1), strict=True)
        return torch.cat([parts[i] for i in range(len(self._samplers))]), x0


class _Vector:
    """Samplers with coefficient tables, stacked for the steps that all of them still have; `done` counts them."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self._samplers = samplers
        coming = min(len(sampler.timesteps) - sampler.index for sampler in samplers)
        spans = [slice(sampler.index, sampler.index + coming) for sampler in samplers]
        tables = [s.table[span] for s, span in zip(samplers, spans, strict=True) if s.table is not None]
        self._tables = torch.stack(tables, dim=2)[:, :, :, None, None, None].unbind(0)
        self._timesteps = [s.timesteps[span] for s, span in zip(samplers, spans, strict=True)]
        # All rows of a batch use the same model.
        self._velocity = samplers[0].scheduler.config.prediction_type == "v_prediction"
        self.done = 0
        self._previous: torch.Tensor | None = None

    def timesteps(self, order: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the timesteps of every sample, (samples,), for each coming step."""
        return torch.stack(self._timesteps, dim=1)[:, order].unbind(0)

    def step(self, noise: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next latents and the predicted x0, both (rows, C, h, w)."""
        table = self._tables[self.done]
        x0 = predicted_x0(table, noise, latents, velocity=self._velocity)
        before = self._first_previous(x0) if self._previous is None else self._previous
        return moved(table, latents, x0, before), x0

    def advance(self, x0: torch.Tensor) -> None:
        """Store x0 for the next step, here and in the sampler of every row."""
        self._previous = x0
        self.done += 1
        for i, sampler in enumerate(self._samplers):
            sampler.previous = x0, i

    def _first_previous(self, x0: torch.Tensor) -> torch.Tensor:
        kept = [sampler.previous or (x0, i) for i, sampler in enumerate(self._samplers)]
        return torch.cat([together[i : i + 1] for together, i in kept])


def predicted_x0(table: torch.Tensor, noise: torch.Tensor, latents: torch.Tensor, *, velocity: bool) -> torch.Tensor:
    """Return the x0 that the guided prediction stands for, (rows, C, h, w).

    Args:
        table: the coefficients of each row's step (`samplers.Sampler`), (6, rows, 1, 1, 1).
        velocity: the model predicts velocity instead of noise.
    """
    sigma, alpha = table[0], table[1]
    if velocity:
        return _times(alpha, latents) - _times(sigma, noise)
    return _over(latents - _times(sigma, noise), alpha)


def moved(table: torch.Tensor, latents: torch.Tensor, x0: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the next latents of DPM++ 2M, (rows, C, h, w); `before` is the x0 of each row's last step."""
    _, _, ratio, newest, slope, inverse_r0 = table.unbind(0)
    difference = _times(inverse_r0, x0 - before)
    result = ratio * latents.float() - _times(newest, x0) - _times(slope, difference)
    return result if x0.dtype == torch.float32 else result.to(x0.dtype)


def _times(factor: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `factor * x` in x's dtype, with the bits that torch gives for a 0-dimensional factor on the host.

    In half precision, torch rounds the factor first on a CPU, but not on CUDA (aten/native/*/BinaryOps; measured on
    the CPU).
    """
    if x.dtype == torch.float32:
        return factor * x
    if x.device.type == "cpu":
        return factor.to(x.dtype) * x
    return (factor * x.to(torch.float32)).to(x.dtype)


def _over(x: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """Return `x / divisor` with the bits that torch gives for a 0-dimensional divisor on the host.

    On CUDA, torch multiplies by the reciprocal (aten/native/cuda/BinaryDivTrueKernel.cu).
    """
    if x.is_cuda:
        return _times((1.0 / divisor.to(torch.float64)).to(torch.float32), x)
    return x / divisor if x.dtype == torch.float32 else (x.to(torch.float32) / divisor).to(x.dtype)
