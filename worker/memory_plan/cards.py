"""What is known of cards without having one: memory and generation, by name or by size. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30
# Steps in which a card's memory counts, so that the few megabytes by which drivers differ decide nothing.
_STEP = 2**28
# What the driver reports of a card's nominal memory, at least; more is kept back by cards with error correction.
_REPORTED = 0.97

_TURING, _AMPERE, _ADA, _HOPPER, _BLACKWELL = "Turing", "Ampere", "Ada", "Hopper", "Blackwell"
# By the words of the name that tell the card: generation, nominal GiB (the usual one first). A name with more words
# comes before one with fewer.
_CARDS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "GTX 1660 Ti": (_TURING, (6,)),
    "GTX 1660": (_TURING, (6,)),
    "RTX 2060": (_TURING, (6, 12)),
    "RTX 2070": (_TURING, (8,)),
    "RTX 2080 Ti": (_TURING, (11,)),
    "RTX 2080": (_TURING, (8,)),
    "T4": (_TURING, (16,)),
    "RTX 3060 Ti": (_AMPERE, (8,)),
    "RTX 3060": (_AMPERE, (12, 8)),
    "RTX 3070": (_AMPERE, (8,)),
    "RTX 3080 Ti": (_AMPERE, (12,)),
    "RTX 3080": (_AMPERE, (10, 12)),
    "RTX 3090": (_AMPERE, (24,)),
    "A10": (_AMPERE, (24,)),
    "A10G": (_AMPERE, (24,)),
    "A40": (_AMPERE, (48,)),
    "A100": (_AMPERE, (80, 40)),
    "A4000": (_AMPERE, (16,)),
    "A5000": (_AMPERE, (24,)),
    "A6000": (_AMPERE, (48,)),
    "RTX 4060 Ti": (_ADA, (8, 16)),
    "RTX 4060": (_ADA, (8,)),
    "RTX 4070 Ti SUPER": (_ADA, (16,)),
    "RTX 4070": (_ADA, (12,)),
    "RTX 4080": (_ADA, (16,)),
    "RTX 4090": (_ADA, (24,)),
    "L4": (_ADA, (24,)),
    "L40": (_ADA, (48,)),
    "L40S": (_ADA, (48,)),
    "RTX 6000 Ada": (_ADA, (48,)),
    "H100": (_HOPPER, (80,)),
    "H200": (_HOPPER, (141,)),
    "RTX 5060 Ti": (_BLACKWELL, (8, 16)),
    "RTX 5060": (_BLACKWELL, (8,)),
    "RTX 5070 Ti": (_BLACKWELL, (16,)),
    "RTX 5070": (_BLACKWELL, (12,)),
    "RTX 5080": (_BLACKWELL, (16,)),
    "RTX 5090": (_BLACKWELL, (32,)),
    "B200": (_BLACKWELL, (180,)),
}
# Cards that report far less than their name says.
_USABLE_GIB = {"T4": 14.5, "A10": 22.0, "A10G": 22.0, "L4": 22.0}
# torch has no kernels for them (`models/cuda.py`).
_TOO_OLD = re.compile(r"\b(GTX ?(9|10)\d\d( Ti)?|TITAN (X|V)|(P4|P40|P100|M40|M60|K40|K80|V100))\b", re.IGNORECASE)
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(gib|gb|g|mib|mb|m)\b", re.IGNORECASE)
_UNITS = {"g": GIB, "m": 2**20}


@dataclass(frozen=True, slots=True)
class Card:
    """A device as far as memory is concerned.

    Args:
        name: as the driver or a person calls it; decides the size of the UNet calls (`call_sizes.py`).
        total: bytes that programs can use of it.
        dtype: the precision of DTYPE=auto on it.
    """

    name: str
    total: int
    dtype: str

    @classmethod
    def measured(cls, name: str, total: int, dtype: str) -> Card:
        """A card that is there, with the bytes that its driver reports."""
        return cls(name, total // _STEP * _STEP, dtype)


def parse_size(text: str) -> int:
    """Return the bytes of `8GiB`, `8 GB` (which is the same for a card) or `8188 MiB`.

    Raises:
        ValueError: it is no size, or none that a card has.
    """
    found = _SIZE.fullmatch(text.strip())
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2][0].lower()])
    if not GIB <= size <= 1024 * GIB:
        raise ValueError(f"{text!r} is no size of a card's memory, such as 8GiB")
    return size


def card_of_size(size: int, dtype: str = "bfloat16") -> Card:
    """A card of which only the nominal memory is known; newer than Turing, where the precision is not given."""
    return Card.measured(f"{size / GIB:.4g} GiB", int(size * _REPORTED), dtype)


def card_named(text: str) -> Card:
    """Return the card of a name such as `RTX 4060`, or with its memory, `RTX 4060 Ti 16GB`.

    Raises:
        ValueError: the card is not known and no memory is given, or torch cannot run on it.
    """
    old = _TOO_OLD.search(text)
    if old is not None:
        raise ValueError(f"{old[0]} is too old: this torch needs a card of Turing or newer (GTX 16, RTX 20, T4)")
    size = _SIZE.search(text)
    words = _words(text if size is None else text.replace(size[0], " "))
    if not words and size is None:
        raise ValueError("no card is named")
    name = next((name for name in sorted(_CARDS, key=len, reverse=True) if _within(_words(name), words)), None)
    if name is None:
        if size is None:
            raise ValueError(f"{text!r} is not a known card: add its memory, as in '{text.strip()} 8GB'")
        return Card.measured(text.strip(), int(parse_size(size[0]) * _REPORTED), "bfloat16")
    generation, gib = _CARDS[name]
    dtype = "float16" if generation == _TURING else "bfloat16"
    usable = _USABLE_GIB.get(name, gib[0] * _REPORTED) * GIB
    total = usable if size is None else parse_size(size[0]) * _REPORTED
    return Card.measured(" ".join(text.split()), int(total), dtype)


def known_cards() -> list[Card]:
    """Every card of the table, at each size that it is sold with, the smallest memory first."""
    cards = [
        card_named(f"{name} {size:g}GB" if len(sizes) > 1 else name)
        for name, (_, sizes) in _CARDS.items()
        for size in sizes
    ]
    return sorted(cards, key=lambda card: (card.total, card.name))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+\d*[a-z]*|\d+", text.lower().replace("-", " "))


def _within(some: list[str], words: list[str]) -> bool:
    """Whether the words stand beside each other, in order; `RTX4060` and a leading `GeForce` count."""
    joined, wanted = "".join(words), "".join(some)
    at = joined.find(wanted)
    # "a10" must not be found in "a100", nor "4060" in "40601".
    return at >= 0 and not joined[at + len(wanted) : at + len(wanted) + 1].isdigit()
