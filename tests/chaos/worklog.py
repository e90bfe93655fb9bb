"""Read the workers' files: which worker had which partitions when, and which pictures were made."""

from __future__ import annotations

import itertools
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

# `revoked` and `lost` take partitions away.
_CHANGES = {"assigned", "revoked", "lost"}


@dataclass(frozen=True, slots=True)
class Made:
    """A picture that the engine of process `life` made for the record at `place`, `offset`."""

    at: float
    life: str
    place: str
    offset: int


@dataclass(frozen=True, slots=True)
class Change:
    """Partitions that process `life` got (`gained`) or gave up."""

    at: float
    life: str
    gained: bool
    places: frozenset[str]


def read_made(files: Iterable[Path]) -> list[Made]:
    """All pictures, by time. A last line that a kill cut short is left out."""
    found = []
    for file in files:
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                at, topic, partition, offset = line.split()
                found.append(Made(float(at), file.stem, f"{topic}/{partition}", int(offset)))
    return sorted(found, key=lambda made: made.at)


def read_changes(files: Iterable[Path]) -> list[Change]:
    """All assignments and their ends, by time, from the workers' own logs."""
    found = []
    for file in files:
        for line in file.read_text(errors="replace").splitlines():
            if not line.startswith("{") or not line.endswith("}"):
                continue
            entry = json.loads(line)
            if entry.get("event") in _CHANGES and "partitions" in entry:
                at = datetime.fromisoformat(entry["timestamp"]).timestamp()
                places = frozenset(entry["partitions"])
                found.append(Change(at, file.stem, entry["event"] == "assigned", places))
    return sorted(found, key=lambda change: change.at)


def held(changes: Sequence[Change], life: str, at: float) -> frozenset[str]:
    """What a process held at a time."""
    places: frozenset[str] = frozenset()
    for change in changes:
        if change.life == life and change.at <= at:
            places = places | change.places if change.gained else places - change.places
    return places


@dataclass(frozen=True, slots=True)
class Takeover:
    """After a kill: seconds to the first picture by another process on any of the victim's partitions, and to the
    assignment of each of them; None where it did not come."""

    first_work_s: float | None
    assigned_s: tuple[float, ...]


def takeovers(kills: Mapping[str, float], changes: Sequence[Change], made: Sequence[Made]) -> list[Takeover]:
    """One for each killed process that held partitions; `kills` gives the time by process."""
    found = []
    for life, at in kills.items():
        places = held(changes, life, at)
        if not places:
            continue
        later = itertools.islice(made, bisect_right(made, at, key=lambda m: m.at), None)
        work = next((m.at - at for m in later if m.life != life and m.place in places), None)
        gains = {place: _gain(changes, life, place, at) for place in places}
        assigned = tuple(gain - at for gain in gains.values() if gain is not None)
        found.append(Takeover(work, assigned))
    return found


def _gain(changes: Sequence[Change], life: str, place: str, at: float) -> float | None:
    gains = (c.at for c in changes if c.gained and c.at > at and c.life != life and place in c.places)
    return next(gains, None)


def repeated_share(made: Sequence[Made]) -> float:
    """Of all pictures, the share that was made for a record which had one already."""
    counts = Counter((m.place, m.offset) for m in made)
    return (len(made) - len(counts)) / len(made) if made else 0.0


def percentile(values: Iterable[float], share: float) -> float | None:
    """The value that `share` of the others do not exceed (nearest rank); None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
