"""Look at a card's memory before the models are loaded, and refuse what cannot fit in one line."""

from __future__ import annotations

import structlog
import torch

from worker.memory_plan.asked import models_of, wishes_of
from worker.memory_plan.cards import Card
from worker.memory_plan.plan import TILE_CHOICES, make_plan
from worker.memory_plan.refusal import refuse
from worker.models.cuda import free_memory
from worker.settings import Settings

_log = structlog.get_logger()

_GB = 1e9


def plan_start(settings: Settings, device: torch.device, dtype: str) -> int | None:
    """Check that the card which the models are about to be loaded to suffices, and log what it is used for.

    Returns:
        The side of the tiles, in pixels, that pictures are to be decoded in; None: as a whole.

    Raises:
        SettingsError: these settings cannot fit; the message has those that would.
        ModelLoadError: other programs have taken the card's memory, or a model is not whole.
    """
    if device.type != "cuda":
        # Main memory is the machine's business (`doctor`), and a choice by it would change pictures with the machine.
        return None if settings.vae_tile_px == "auto" else TILE_CHOICES[settings.vae_tile_px]
    properties = torch.cuda.get_device_properties(device)
    card = Card.measured(properties.name, properties.total_memory, dtype)
    models, wishes = models_of(settings, dtype), wishes_of(settings, dtype)
    plan = make_plan(models, wishes, card)
    refuse(models, wishes, plan, free_memory(device))
    told = {"card": card.name, "card_gb": round(card.total / _GB, 1), "needed_gb": round(plan.needed / _GB, 1)}
    told |= {"weights_gb": round(plan.weights / _GB, 1), "working_gb": round(plan.working / _GB, 1)}
    (_log.warning if plan.is_tight else _log.info)("memory_planned", **told, vae_tile_px=plan.tile_px)
    return plan.tile_px
