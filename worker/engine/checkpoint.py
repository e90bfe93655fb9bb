"""Serialise the row of a released job, so that the next worker continues from its last step to the same bits.

The format is safetensors, so that someone who can write to the bucket cannot run code here. Only rows of the vectorised
sampler (`samplers.py`) are supported: the other schedulers keep their state inside diffusers, and their jobs start
again from the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save

from worker.engine.row import Row
from worker.engine.schedule.rows import Segment


class Facts(BaseModel):
    """The state of a row besides its tensors.

    Times are in seconds; `lora_fingerprints` are those of the LoRA files that the row used. `compiled` says that
    the steps ran on the fast path; it is younger than the first checkpoints.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    steps_done: int = Field(ge=1)
    started_at: float
    gpu_seconds: float = Field(ge=0)
    text_seconds: float = Field(ge=0)
    reproducible: bool
    lora_fingerprints: dict[str, str]
    compiled: bool = False


class Checkpoint:
    """The state of a row, read from bytes.

    Args:
        data: the result of `dump`.

    Raises:
        ValueError: `data` is damaged, or not a checkpoint.
    """

    def __init__(self, data: bytes) -> None:
        try:
            tensors = load(data)
            self.facts = Facts.model_validate_json(tensors["facts"].numpy().tobytes())
            self._latents, self._previous = tensors["latents"], tensors["previous"]
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"not a checkpoint: {error}") from error
        if self._latents.shape != self._previous.shape:
            raise ValueError("not a checkpoint: its tensors differ in shape")

    def segments_left(self, segments: Iterable[Segment]) -> list[Segment]:
        """Return the segments of the job without the steps that are done.

        Raises:
            ValueError: no step is left.
        """
        done, left = self.facts.steps_done, []
        for segment in segments:
            passed = min(done, segment.steps)
            done -= passed
            if segment.steps > passed:
                left.append(replace(segment, steps=segment.steps - passed))
        if not left:
            raise ValueError("the checkpoint is after the last step of the job")
        return left

    def fits(self, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
        """Return whether the latents have this shape and dtype."""
        return self._latents.shape == shape and self._latents.dtype == self._previous.dtype == dtype

    def restore(self, row: Row, index: int) -> None:
        """Restore `row`, which is at the start of its stage, to step `index` of the stage's schedule."""
        facts, device = self.facts, row.latents.device
        row.latents = self._latents.to(device)
        row.sampler.index = index
        row.sampler.previous = (self._previous.to(device), 0) if index else None
        row.steps_done, row.started_at = facts.steps_done, facts.started_at
        row.gpu_seconds, row.text_seconds = facts.gpu_seconds, facts.text_seconds
        row.reproducible = facts.reproducible


def dump(row: Row, lora_fingerprints: Mapping[str, str], *, compiled: bool = False) -> bytes | None:
    """Serialise a row between two steps; None if it has no finished step, or its sampler cannot be restored."""
    if row.sampler.table is None or not row.steps_done:
        return None
    facts = Facts(
        steps_done=row.steps_done,
        started_at=row.started_at,
        gpu_seconds=row.gpu_seconds,
        text_seconds=row.text_seconds,
        reproducible=row.reproducible,
        lora_fingerprints=dict(lora_fingerprints),
        compiled=compiled,
    )
    # Before the refiner's first step there is no previous x0; none is needed then, and the latents take its place.
    together, place = row.sampler.previous or (row.latents, 0)
    tensors = {
        "facts": torch.frombuffer(bytearray(facts.model_dump_json().encode()), dtype=torch.uint8),
        "latents": row.latents.contiguous().cpu(),
        "previous": together[place : place + 1].contiguous().cpu().clone(),
    }
    return save(tensors)
