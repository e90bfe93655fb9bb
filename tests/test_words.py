"""One word for one thing: names in `worker/` do not use the words that `docs/glossary.md` replaces."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"


@dataclass(frozen=True, slots=True)
class Word:
    """Why a word is not used, and which one is."""

    why: str
    instead: str


_RELEASE = Word("a job that leaves without an outcome had nine verbs", "release")
_LANE = Word("`class` is a word of Python, and `priority` names a field", "lane")

# Words of a name, joined by underscores; a name is refused where they stand in it one after the other.
BANNED: dict[str, Word] = {
    "hand_back": _RELEASE,
    "handed_back": _RELEASE,
    "give_back": _RELEASE,
    "given_back": _RELEASE,
    "let_go": _RELEASE,
    "dropped": _RELEASE,
    "discarded": _RELEASE,
    "lose": _RELEASE,
    "class": _LANE,
    "work_queue": Word("its file is retry_queue.py, and every queue holds work", "retry_queue"),
    "journal": Word("its file is job_log.py", "job_log"),
    "errands": Word("its file is consumer_proxy.py", "consumer_proxy"),
}


def words(name: str) -> str:
    """`HandBack2` and `_hand_back` as `_hand_back_`."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return f"_{split.lower().strip('_')}_"


def defined(source: str) -> Iterator[tuple[int, str]]:
    """Every name that a module defines, with its line; names of libraries that it only uses are left out."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name


@cache
def names(path: Path) -> list[tuple[int, str]]:
    """What `defined` finds in a file."""
    return list(defined(path.read_text()))


def has(word: str, name: str) -> bool:
    """Whether a name has the word in it."""
    return f"_{word}_" in words(name)


def uses(word: str, source: str) -> list[tuple[int, str]]:
    """Where a module defines a name that has the word in it."""
    return [(line, name) for line, name in defined(source) if has(word, name)]


@pytest.mark.parametrize("word", BANNED)
def test_no_name_has_a_word_that_the_glossary_replaces(word: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / "worker").rglob("*.py"))
        for line, name in names(path)
        if has(word, name)
    ]
    assert not found, f"say {BANNED[word].instead}, since {BANNED[word].why}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("word", "source"),
    [
        ("hand_back", "def hand_back(): ..."),
        ("hand_back", "def _hand_back_all(): ..."),
        ("hand_back", "class HandBack: ..."),
        ("dropped", "class Hooks:\n    dropped: int"),
        ("dropped", "self.dropped = 1"),
        ("dropped", "def f(dropped): ..."),
        ("dropped", "import job as dropped"),
        ("class", "class PriorityClass: ..."),
    ],
)
def test_a_name_with_such_a_word_is_found(word: str, source: str) -> None:
    assert uses(word, source)


@pytest.mark.parametrize("source", ["x.discard(1)", "def closed(): ...", "classes = 1", "classmethod(f)", "drop = 1"])
def test_a_name_of_a_library_or_with_a_longer_word_is_not_found(source: str) -> None:
    assert not any(uses(word, source) for word in BANNED)


@pytest.mark.parametrize("word", sorted({word.instead for word in BANNED.values()}))
def test_the_word_to_use_instead_stands_in_the_glossary(word: str) -> None:
    assert re.search(rf"^\| {word.replace('_', ' ')} \|", GLOSSARY.read_text(), re.MULTILINE)
