"""Refuse settings that cannot fit a card, in one line that has those that would. Pure."""

from __future__ import annotations

from worker.errors import ModelLoadError, SettingsError
from worker.memory_plan.cures import cure
from worker.memory_plan.plan import CONTEXT_BYTES, Models, Plan, Wishes

_GB = 1e9


def refuse(models: Models, wishes: Wishes, plan: Plan, free: int | None) -> None:
    """Raise where the plan cannot fit; `free` are the bytes that no program has taken, None where nobody knows.

    Raises:
        SettingsError: the card is too small for these settings.
        ModelLoadError: the card is large enough, and too much of it is taken.
    """
    if not plan.fits:
        settings = cure(models, wishes, plan)
        advice = "no settings would fit: use a larger card" if settings is None else f"set {settings}"
        raise SettingsError(f"{too_small(plan)}: {advice} (sdxl-worker memory shows it)")
    # The context is there already: torch had to open it to ask.
    if free is not None and plan.needed - CONTEXT_BYTES > free:
        raise ModelLoadError(
            f"{plan.card.name} has {free / _GB:.1f} GB free of {plan.card.total / _GB:.1f}, and this worker needs "
            f"{plan.needed / _GB:.1f}: end what else uses the card (nvidia-smi shows it)"
        )


def too_small(plan: Plan) -> str:
    """One clause about a card that does not suffice."""
    return (
        f"{plan.card.name} has {plan.card.total / _GB:.1f} GB of memory, and these settings need "
        f"{plan.needed / _GB:.1f} ({plan.weights / _GB:.1f} for weights, {plan.working / _GB:.1f} to draw the largest "
        f"picture)"
    )
