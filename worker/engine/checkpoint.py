"""A row that is handed back, as bytes: the next worker goes on from the step that it reached, to the same bits.

Safetensors, since whoever can write to the bucket must not be able to run code here. The rows of the vectorised
sampler (`samplers.py`) only: the other schedulers keep their state inside diffusers, and their jobs begin anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save

from worker.engine.row import Row
from worker.engine.schedule import Segment


class Facts(BaseModel):
    """What a row knows beside its tensors; times are in seconds, `lora_fingerprints` of the files that it used."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    steps_done: int = Field(ge=1)
    started_at: float
    gpu_seconds: float = Field(ge=0)
    text_seconds: float = Field(ge=0)
    reproducible: bool
    lora_fingerprints: dict[str, str]


class Checkpoint:
    """A row as it was read back.

    Args:
        data: what `dump` wrote.

    Raises:
        ValueError: it is something else, or damaged.
    """

    def __init__(self, data: bytes) -> None:
        try:
            tensors = load(data)
            self.facts = Facts.model_validate_json(tensors["facts"].numpy().tobytes())
            self._latents, self._previous = tensors["latents"], tensors["previous"]
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"no checkpoint: {error}") from error
        if self._latents.shape != self._previous.shape:
            raise ValueError("no checkpoint: its tensors differ in shape")

    def segments_left(self, segments: Iterable[Segment]) -> list[Segment]:
        """What of the job's runs of steps is still to do.

        Raises:
            ValueError: nothing is.
        """
        done, left = self.facts.steps_done, []
        for segment in segments:
            passed = min(done, segment.steps)
            done -= passed
            if segment.steps > passed:
                left.append(replace(segment, steps=segment.steps - passed))
        if not left:
            raise ValueError("the checkpoint has all the steps of the job")
        return left

    def fits(self, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
        """Whether its latents are of this shape and precision."""
        return self._latents.shape == shape and self._latents.dtype == self._previous.dtype == dtype

    def restore(self, row: Row, index: int) -> None:
        """Put `row`, which is new in its stage, to the place `index` of the stage's schedule."""
        facts, device = self.facts, row.latents.device
        row.latents = self._latents.to(device)
        row.sampler.index = index
        row.sampler.previous = (self._previous.to(device), 0) if index else None
        row.steps_done, row.started_at = facts.steps_done, facts.started_at
        row.gpu_seconds, row.text_seconds = facts.gpu_seconds, facts.text_seconds
        row.reproducible = facts.reproducible


def dump(row: Row, lora_fingerprints: Mapping[str, str]) -> bytes | None:
    """The row as it is between two steps; None where it would not come back as it was, or nothing is done yet."""
    if row.sampler.table is None or not row.steps_done:
        return None
    facts = Facts(
        steps_done=row.steps_done,
        started_at=row.started_at,
        gpu_seconds=row.gpu_seconds,
        text_seconds=row.text_seconds,
        reproducible=row.reproducible,
        lora_fingerprints=dict(lora_fingerprints),
    )
    # Before the refiner's first step there is none, and none is needed.
    together, place = row.sampler.previous or (row.latents, 0)
    tensors = {
        "facts": torch.frombuffer(bytearray(facts.model_dump_json().encode()), dtype=torch.uint8),
        "latents": row.latents.contiguous().cpu(),
        "previous": together[place : place + 1].contiguous().cpu().clone(),
    }
    return save(tensors)
