"""Which prompts become no picture. Pure, but for reading the tables once.

The negative prompt is never looked at: people name there what they want kept out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from worker.content.ages import states_minor_age
from worker.content.fold import fold
from worker.content.phrases import Phrases, make_phrases, written_together
from worker.errors import ErrorCode, RequestRejected

# Of these only, words with a gap in the middle are looked for: elsewhere ordinary short words would meet.
_JOINED_LANGUAGE = "en"
_NEVER_JOINED = frozenset({"minor", "minors"})


def check_content(prompt: str, nsfw_level: int, denied: Phrases | None = None) -> None:
    """Refuse a prompt that the rules forbid.

    Args:
        prompt: as it will be drawn, the profile's words included.
        denied: the operator's own phrases, which count at every level.

    Raises:
        RequestRejected: `content_rejected`; the message does not repeat the prompt.
    """
    if nsfw_level <= 0 and denied is None:
        return
    folded = fold(prompt)
    if nsfw_level > 0 and points_at_minor(folded):
        raise RequestRejected(
            ErrorCode.CONTENT_REJECTED,
            "with an nsfw_level above 0 the prompt must not point at anyone under 18, by word or by age",
        )
    if denied is not None and denied.found_in(folded):
        raise RequestRejected(ErrorCode.CONTENT_REJECTED, "the prompt has a phrase that this service does not draw")


def points_at_minor(folded: str) -> bool:
    """Whether folded text names a minor or states an age under 18."""
    return states_minor_age(folded) or _minors().found_in(folded)


def read_denied(path: Path) -> Phrases:
    """A deny list: a phrase per line; empty lines and those that begin with # say nothing.

    A phrase of several words is also found written together. A line that begins with ! is an exception: `!therapist`
    where `the rapist` is denied.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, or has no phrase.
    """
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    entries = [line for line in lines if line and not line.startswith("#")]
    exceptions = [entry[1:] for entry in entries if entry.startswith("!")]
    phrases = [entry for entry in entries if not entry.startswith("!")]
    blank = any(not any(sign.isalnum() for sign in fold(entry)) for entry in entries)
    if blank or not phrases:
        raise ValueError("one of its lines has no letter or digit" if blank else "it has no phrase")
    return make_phrases([*phrases, *written_together(phrases)], innocent=exceptions)


@cache
def _minors() -> Phrases:
    tables = tomllib.loads(files("worker.content").joinpath("minors.toml").read_text(encoding="utf-8"))
    words, stems, innocent = set[str](), set[str](), set[str]()
    for table in tables.values():
        words |= {*table["words"], *_pairs(table.get("pairs", ()))}
        stems |= set(table.get("stems", ()))
        innocent |= {*table["innocent"], *_pairs(table.get("innocent_pairs", ()))}
    joined = set(tables[_JOINED_LANGUAGE]["words"]) - _NEVER_JOINED
    return make_phrases(words, sorted(stems), innocent, joined=joined)


def _pairs(pairs: Iterable[Sequence[Sequence[str]]]) -> set[str]:
    return {f"{first} {second}" for firsts, seconds in pairs for first in firsts for second in seconds}
