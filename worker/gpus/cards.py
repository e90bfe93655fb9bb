"""Which GPUs this machine has, and which of them were asked for. Asked of NVML: torch would take memory of each."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU, or a part of one that MIG made.

    Args:
        uuid: GPU-… or MIG-…, which CUDA_VISIBLE_DEVICES takes; unlike a number, it means the same after a reboot.
        number: its place in the list, from 0; parts of one card have numbers of their own.
    """

    uuid: str
    name: str
    number: int


def list_cards(nvml: Any = None) -> list[Card]:
    """The cards of this machine in NVML's order; where MIG is on, its instances in place of the card.

    Args:
        nvml: replaces `pynvml` in tests.

    Raises:
        SettingsError: there is no NVIDIA driver.
    """
    try:
        if nvml is None:
            nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        cards: list[Card] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            for part in _instances(nvml, handle) or [handle]:
                cards.append(Card(_text(nvml.nvmlDeviceGetUUID(part)), _text(nvml.nvmlDeviceGetName(part)), len(cards)))
    except (ImportError, OSError) as error:
        raise SettingsError(f"--gpus: NVIDIA's driver is not there: {error}") from None
    except nvml.NVMLError as error:
        raise SettingsError(f"--gpus: NVIDIA's driver does not answer: {error}") from None
    return cards


def _instances(nvml: Any, handle: Any) -> list[Any]:
    """The MIG instances of a card; none where MIG is off or unknown to the card."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != 1:
            return []
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:
        return []
    found = []
    for index in range(count):
        try:
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        except nvml.NVMLError:
            continue  # a place without an instance
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def choose(cards: Sequence[Card], wanted: str, visible: str | None) -> list[Card]:
    """The cards that `--gpus` names.

    Args:
        wanted: `all`, or numbers and UUIDs (their beginnings suffice), comma separated.
        visible: CUDA_VISIBLE_DEVICES of this process: other cards are somebody else's. None: not set.

    Raises:
        SettingsError: one is not there, or none is left.
    """
    if visible is not None:
        cards = [_find(cards, one, "CUDA_VISIBLE_DEVICES") for one in _parts(visible)]
    chosen = list(cards) if wanted == "all" else [_find(cards, one, "--gpus") for one in _parts(wanted)]
    if not chosen:
        raise SettingsError("--gpus: there is no GPU here that may be used")
    twice = next((card for card in chosen if chosen.count(card) > 1), None)
    if twice is not None:
        raise SettingsError(f"--gpus: card {twice.number} ({twice.uuid}) is named twice")
    return chosen


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _find(cards: Sequence[Card], name: str, where: str) -> Card:
    found = [
        card for card in cards if str(card.number) == name or (not name.isdecimal() and card.uuid.startswith(name))
    ]
    if len(found) != 1:
        known = ", ".join(f"{card.number} ({card.uuid})" for card in cards) or "none"
        raise SettingsError(
            f"{where}: {name!r} is {'no card' if not found else 'several cards'} here; there are: {known}"
        )
    return found[0]
