"""The two tables: what must be refused with an nsfw_level above 0, and what must pass. Written by hand, read by people.

A file per language in `refused` and `passing`, one caption a line; a line that begins with "# " is a heading. The
older, shorter phrases are in `phrases.toml`. The captions are ordinary ones; it is the level that refuses them.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from worker.content.rules import check_content
from worker.errors import RequestRejected

HERE = Path(__file__).parent
PHRASES: dict[str, dict[str, list[str]]] = tomllib.loads((HERE / "phrases.toml").read_text(encoding="utf-8"))


def captions(kind: str) -> dict[str, list[str]]:
    """The captions of one table by language."""
    found = {}
    for path in sorted((HERE / kind).glob("*.txt")):
        lines = path.read_text(encoding="utf-8").split("\n")
        found[path.stem] = [line for line in lines if line.strip() and not line.startswith("# ")]
    return found


def table(kind: str, older: str) -> dict[str, list[str]]:
    """Captions and older phrases together, by language."""
    found, phrases = captions(kind), PHRASES[older]
    return {language: phrases.get(language, []) + found.get(language, []) for language in {*found, *phrases}}


REFUSED = table("refused", "rejected")
PASSING = table("passing", "accepted")


def rejection(prompt: str, nsfw_level: int = 1) -> RequestRejected | None:
    """The error that the prompt meets, if any."""
    try:
        check_content(prompt, nsfw_level)
    except RequestRejected as error:
        return error
    return None
