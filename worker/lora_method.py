"""How a job's LoRAs are applied: merged into a second copy of the weights, or by hooks on the layers. Pure.

Both give the same picture but for the last bits. So which one a job gets follows from the job and the settings alone,
never from what runs beside it; it stands in the manifest and in the key of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from worker.call_sizes import CallSizes
from worker.job import Job, LoraMethod

Loras = Sequence[tuple[str, float]]


class LoraMode(StrEnum):
    """The setting LORA_MODE."""

    MERGED = "merged"
    MIXED = "mixed"
    HOOKS = "hooks"


@dataclass(frozen=True, slots=True)
class LoraMethods:
    """The methods of one worker.

    Args:
        calls: the size of every UNet call, by job; None: calls are not padded and may hold several rows.
    """

    mode: LoraMode = LoraMode.MERGED
    calls: CallSizes | None = None

    def of(self, job: Job) -> LoraMethod | None:
        """Return the method for `job`; None where no LoRA has a weight other than 0."""
        if not has_effect(job.loras):
            return None
        if job.lora_method is not None:
            return job.lora_method
        if self.mode is LoraMode.MIXED:
            return LoraMethod.HOOKS if self._shares_calls(job) else LoraMethod.MERGED
        return LoraMethod.MERGED if self.mode is LoraMode.MERGED else LoraMethod.HOOKS

    def _shares_calls(self, job: Job) -> bool:
        return self.calls is None or self.calls.of(job) > (2 if job.guided else 1)


def has_effect(loras: Loras) -> bool:
    """Whether any of the LoRAs has a weight other than 0."""
    return any(weight for _, weight in loras)


def stated_method(model: Mapping[str, object], loras: Loras) -> LoraMethod | None:
    """Return how the LoRAs of a stored picture were applied; None where it has none.

    Args:
        model: the manifest's `model`. Before the method was stated, there were hooks only.

    Raises:
        ValueError: the manifest states a method that no worker has.
    """
    if not has_effect(loras):
        return None
    stated = model.get("lora_method", LoraMethod.HOOKS)
    try:
        return LoraMethod(stated)  # type: ignore[arg-type] # whatever it is, it is one or not
    except ValueError:
        raise ValueError(f"the manifest states the LoRA method {stated!r}, which no worker has") from None
