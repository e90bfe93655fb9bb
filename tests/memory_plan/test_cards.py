"""Cards that are named and not there."""

from __future__ import annotations

import pytest

from worker.memory_plan.cards import GIB, Card, card_named, card_of_size, known_cards, parse_size


@pytest.mark.parametrize(
    ("name", "gib", "dtype"),
    [
        ("RTX 4060 8GB", 8, "bfloat16"),
        ("NVIDIA GeForce RTX 4060 Ti 16 GB", 16, "bfloat16"),
        ("rtx4090", 24, "bfloat16"),
        ("GeForce RTX 2080 Ti", 11, "float16"),
        ("RTX 2060 12GB", 12, "float16"),
        ("NVIDIA A100-SXM4-80GB", 80, "bfloat16"),
        ("A100", 80, "bfloat16"),
        ("L40S", 48, "bfloat16"),
        ("NVIDIA H100 80GB HBM3", 80, "bfloat16"),
        ("RTX 9999 48GB", 48, "bfloat16"),
    ],
)
def test_names_with_and_without_their_memory(name: str, gib: float, dtype: str) -> None:
    card = card_named(name)
    assert 0.94 * gib * GIB <= card.total <= gib * GIB
    assert card.dtype == dtype


@pytest.mark.parametrize("name", ["Tesla T4", "A10", "A10G", "L4"])
def test_cards_with_error_correction_report_less(name: str) -> None:
    nominal = 16 if "T4" in name else 24
    assert card_named(name).total <= 0.93 * nominal * GIB


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("RTX 9999", "add its memory"),
        ("GTX 1080 Ti", "too old"),
        ("Tesla V100 32GB", "too old"),
        ("", "no card is named"),
        ("8000TB", "not a known card"),
        ("RTX 9999 9000GB", "no size"),
    ],
)
def test_what_is_no_card_is_told(name: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        card_named(name)


@pytest.mark.parametrize(("text", "size"), [("8GiB", 8 * GIB), ("8 gb", 8 * GIB), ("8188MiB", 8188 * 2**20)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert card_of_size(size).total <= size


@pytest.mark.parametrize("text", ["", "8", "GiB", "-8GiB", "0GiB", "1e9GiB", "8 TiB", "nan GB"])
def test_what_is_no_size_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


def test_the_megabytes_by_which_drivers_differ_decide_nothing() -> None:
    sizes = {Card.measured("RTX 4090", size, "bfloat16").total for size in (25_250_627_584, 25_282_281_472)}
    assert len(sizes) == 1


def test_the_known_cards_are_found_by_their_own_names() -> None:
    assert {card.name: card.total for card in known_cards()} == {
        card.name: card_named(card.name).total for card in known_cards()
    }
