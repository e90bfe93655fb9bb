"""Look at a card's memory before the models are loaded, and refuse what cannot fit in one line."""

from __future__ import annotations

from typing import NamedTuple

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


class Choices(NamedTuple):
    """What a card's memory decides at the start.

    `tile_px` is the side of the tiles that pictures are to be decoded in; None: as a whole. `second_copy` says whether
    there is room for a second copy of the UNet's weights, for merged LoRAs.
    """

    tile_px: int | None
    second_copy: bool = True


def plan_start(settings: Settings, device: torch.device, dtype: str) -> Choices:
    """Check that the card which the models are about to be loaded to suffices, and log what it is used for.

    Raises:
        SettingsError: these settings cannot fit; the message has those that would.
        ModelLoadError: other programs have taken the card's memory, or a model is not whole.
    """
    if device.type != "cuda":
        # Main memory is the machine's business (`doctor`), and a choice by it would change pictures with the machine.
        return Choices(None if settings.vae_tile_px == "auto" else TILE_CHOICES[settings.vae_tile_px])
    properties = torch.cuda.get_device_properties(device)
    card = Card.measured(properties.name, properties.total_memory, dtype)
    models, wishes = models_of(settings, dtype), wishes_of(settings, dtype)
    plan = make_plan(models, wishes, card)
    refuse(models, wishes, plan, free_memory(device))
    told = {"card": card.name, "card_gb": round(card.total / _GB, 1), "needed_gb": round(plan.needed / _GB, 1)}
    told |= {"weights_gb": round(plan.weights / _GB, 1), "working_gb": round(plan.working / _GB, 1)}
    (_log.warning if plan.is_tight else _log.info)("memory_planned", **told, vae_tile_px=plan.tile_px)
    # Captured steps need the whole of it at once; else it grows with the layers that LoRAs change, as far as it can.
    no_room = wishes.loras and wishes.compiled and not plan.lora_copy
    return Choices(plan.tile_px, second_copy=not no_room)
