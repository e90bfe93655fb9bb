"""The `memory` verb: what a card's memory is used for, and which cards suffice; it needs neither GPU nor weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import typer

from worker.cli.output import print_json
from worker.memory_plan import show
from worker.memory_plan.asked import models_of, wishes_of
from worker.memory_plan.cards import Card, card_named, card_of_size, known_cards, parse_size
from worker.memory_plan.plan import make_plan
from worker.settings import Settings, load_settings

_TOO_SMALL = 1
_Lines = Callable[[show.Table], Iterator[str]]


def memory(
    card: Annotated[
        str | None, typer.Option(metavar="NAME", help='A card, such as "RTX 4060 8GB" (default: the one here).')
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="A card's memory, such as 8GiB, in place of its name."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="One line for each known card.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print tables in Markdown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per card.")] = False,
) -> None:
    """Show what a card's memory is used for with the present settings and models.

    Models that are not on this machine count as SDXL's own; nothing is downloaded,
    no weights are read, and no GPU is needed.

    Exit code 0: it fits. 1: the card is too small; the last line has settings that would fit.
    """
    if sum((card is not None, size is not None, every)) > 1:
        raise typer.BadParameter("--card, --memory and --all exclude each other")
    os.environ["HF_HUB_OFFLINE"] = "1"
    settings = load_settings()
    chosen = None if every else _chosen(card, size, settings)
    lines = show.markdown if as_markdown else show.plain
    if chosen is None:
        _tell_all(settings, as_json=as_json, lines=lines)
        return
    dtype = _dtype(settings, chosen)
    models, wishes = models_of(settings, dtype), wishes_of(settings, dtype)
    plan = make_plan(models, wishes, chosen)
    if as_json:
        print_json(show.as_json(models, wishes, plan))
    else:
        _print(lines(show.uses(plan, wishes)), [""], lines(show.buckets(plan)), [""])
        if models.base.assumed:
            print(f"{settings.sdxl_model_id} is not on this machine: these are the figures of SDXL itself.")
        print(show.verdict(models, wishes, plan))
    if not plan.fits:
        raise typer.Exit(_TOO_SMALL)


def _tell_all(settings: Settings, *, as_json: bool, lines: _Lines) -> None:
    cards = known_cards()
    dtype = None if settings.dtype == "auto" else settings.dtype
    models, wishes = models_of(settings, dtype or "bfloat16"), wishes_of(settings, dtype or "bfloat16")
    if as_json:
        for card in cards:
            asked = wishes_of(settings, _dtype(settings, card))
            print_json(show.as_json(models, asked, make_plan(models, asked, card)))
        return
    _print(lines(show.cards(models, wishes, cards, dtype=dtype)))


def _chosen(card: str | None, size: str | None, settings: Settings) -> Card | None:
    try:
        if card is not None:
            return card_named(card)
        if size is not None:
            return card_of_size(parse_size(size))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return _here(int(settings.device.partition(":")[2] or 0))


def _here(index: int) -> Card | None:
    """This machine's card of that number; None where torch can use none."""
    import torch

    from worker.models.load import resolve_dtype

    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return None
    properties = torch.cuda.get_device_properties(index)
    dtype = str(resolve_dtype("auto", f"cuda:{index}")).removeprefix("torch.")
    return Card.measured(properties.name, properties.total_memory, dtype)


def _dtype(settings: Settings, card: Card) -> str:
    return card.dtype if settings.dtype == "auto" else settings.dtype


def _print(*parts: Iterable[str]) -> None:
    for part in parts:
        for line in part:
            print(line)
