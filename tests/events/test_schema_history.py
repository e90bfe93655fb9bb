"""Every schema that was ever written can be found again, by a checkout and by the image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastavro.schema import to_parsing_canonical_form

from worker.events.schemas import file_stem, schema_dir
from worker.events.types import EVENT_TYPES, Event

ROOT = Path(__file__).resolve().parents[2]


def number(path: Path) -> int:
    return int(path.stem.removeprefix("v"))


def canonical(path: Path) -> str:
    form: str = to_parsing_canonical_form(json.loads(path.read_text()))
    return form


@pytest.mark.parametrize("cls", EVENT_TYPES)
def test_the_current_schema_is_the_newest_of_its_history(cls: type[Event]) -> None:
    # Records of a version that is in no history could not be read once the schema changes again.
    history = sorted((schema_dir() / "history" / file_stem(cls)).glob("v*.avsc"), key=number)
    assert [number(path) for path in history] == list(range(1, len(history) + 1))
    newest, current = history[-1], schema_dir() / f"{file_stem(cls)}.avsc"
    # Texts of `doc` may change: they are not in the canonical form, by whose fingerprint a schema is found.
    assert canonical(newest) == canonical(current)


def test_the_image_gets_the_history_too() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "!schemas" in lines
    assert not any("history" in line for line in lines)
