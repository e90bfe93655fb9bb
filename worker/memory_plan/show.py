"""The plan as text: what one card's memory is used for, and which cards suit which models. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from worker.memory_plan.cards import Card
from worker.memory_plan.cures import cure
from worker.memory_plan.plan import CONTEXT_BYTES, SPARE_BYTES, Models, Plan, Wishes, make_plan
from worker.memory_plan.refusal import too_small

_GB = 1e9
Table = tuple[Sequence[str], list[Sequence[str]]]


def uses(plan: Plan, wishes: Wishes) -> Table:
    """What the memory of one card is used for."""
    rows: list[Sequence[str]] = [
        ("CUDA and its libraries", gb(CONTEXT_BYTES)),
        (f"weights, {wishes.dtype}", gb(plan.weights)),
        ("largest step or decode", gb(plan.working)),
    ]
    if wishes.lora_bytes:
        rows.append(("LoRAs that are kept", gb(plan.loras)))
    if wishes.loras:
        rows.append(("second copy for merged LoRAs", gb(plan.lora_copy) if plan.lora_copy else "no room on the card"))
    if plan.graphs:
        rows.append(("captured steps", gb(plan.graphs)))
    rows += [("spare", gb(SPARE_BYTES)), ("together", gb(plan.total)), (plan.card.name, gb(plan.card.total))]
    return ("use", "GB"), rows


def buckets(plan: Plan) -> Table:
    """What each size of picture needs while it is drawn, and while it is decoded."""
    rows = [
        (_size(bucket.positions), str(bucket.samples), gb(bucket.step, 2), gb(bucket.decode, 2))
        for bucket in plan.buckets
    ]
    return ("picture", "samples of a call", "step, GB", f"decode {decode_of(plan)}, GB"), list(rows)


def cards(models: Models, wishes: Wishes, known: Sequence[Card], *, dtype: str | None) -> Table:
    """Which of several cards suit the base alone, and the base with its refiner.

    Args:
        dtype: the precision of all of them; None: what DTYPE=auto comes to on each.
    """
    columns: list[tuple[str, Models, Wishes]] = [("base alone", Models(models.base), wishes)]
    if models.refiner is not None:
        columns += [
            ("and refiner, REFINER_OFFLOAD", models, replace(wishes, refiner_offload=True)),
            ("and refiner", models, replace(wishes, refiner_offload=False)),
        ]
    rows = []
    for card in known:
        precision = dtype or card.dtype
        cells = [
            _cell(make_plan(column, replace(asked, dtype=precision), replace(card, dtype=precision)))
            for _, column, asked in columns
        ]
        merged = make_plan(Models(models.base), replace(wishes, dtype=precision, loras=True), card)
        copy = "on the card" if merged.lora_copy else "no room"
        rows.append((card.name, gb(card.total), precision, *cells, copy if merged.fits else ""))
    return ("card", "GB", "precision", *(name for name, _, _ in columns), "second copy for LoRAs"), list(rows)


def verdict(models: Models, wishes: Wishes, plan: Plan) -> str:
    """One line on whether the card suffices."""
    if not plan.fits:
        settings = cure(models, wishes, plan)
        return f"Too small: {too_small(plan)}. " + (
            "No settings would fit." if settings is None else f"These would fit: {settings}."
        )
    how = f"pictures are decoded {decode_of(plan)}"
    if plan.is_tight:
        return f"It fits, but tightly: {how}, and the worker may have to save memory while it runs."
    return f"It fits: {how}."


def as_json(models: Models, wishes: Wishes, plan: Plan) -> dict[str, Any]:
    """The plan for programs; sizes in bytes."""
    return {
        "card": plan.card.name,
        "card_bytes": plan.card.total,
        "dtype": wishes.dtype,
        "fits": plan.fits,
        "tight": plan.is_tight,
        "needed_bytes": plan.needed,
        "weights_bytes": plan.weights,
        "working_bytes": plan.working,
        "lora_cache_bytes": plan.loras,
        "lora_copy_bytes": plan.lora_copy,
        "graphs_bytes": plan.graphs,
        "vae_tile_px": plan.tile_px,
        "settings_that_fit": None if plan.fits else cure(models, wishes, plan),
        "assumed_models": models.base.assumed or (models.refiner is not None and models.refiner.assumed),
        "buckets": [
            {
                "latent_positions": bucket.positions,
                "samples": bucket.samples,
                "step_bytes": bucket.step,
                "decode_bytes": bucket.decode,
            }
            for bucket in plan.buckets
        ],
    }


def markdown(table: Table) -> Iterator[str]:
    """The lines of a table in Markdown."""
    head, rows = table
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join(['---'] * len(head))} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def plain(table: Table) -> Iterator[str]:
    """The lines of a table in columns."""
    head, rows = table
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def decode_of(plan: Plan) -> str:
    """How pictures are decoded."""
    return "whole" if plan.tile_px is None else f"in tiles of {plan.tile_px} px"


def gb(size: int, digits: int = 1) -> str:
    """Bytes as a number of GB."""
    return f"{size / _GB:.{digits}f}"


def _cell(plan: Plan) -> str:
    if not plan.fits:
        return f"no ({gb(plan.needed)})"
    tiles = "" if plan.tile_px is None else f", tiles of {plan.tile_px}"
    return f"{gb(plan.total)}{tiles}{', tight' if plan.is_tight else ''}"


def _size(positions: int) -> str:
    side = round(positions**0.5)
    return f"{8 * side}²" if side * side == positions else f"{positions * 64 / 1e6:.2f} MP"
