"""Phrases looked for in folded text, also where they are spelled with digits, signs and gaps. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from worker.content.disguises import GAP, SIGNS, SINGLES, letters_for_signs
from worker.content.fold import fold

_WORD = r"[^\W\d_]"
_TOKEN = re.compile(rf"\d+|{_WORD}+")
_LEET_TOKEN = re.compile(r"[^\W_]*(?:[@$€£¢+|!¡]*[^\W_]+)+")
_THOUSANDS = re.compile(r"(?<=\d)[,.'](?=\d{3}(?!\d))")
_RANGE = re.compile(r"(?<=\d)\s*[-–—~〜]\s*(?=\d)")
_SPLIT = re.compile(r"[^\W\d_][\W_]+[^\W\d_]")
_EDGES = ".,;:?()[]{}<>\"'_-*~`"
_REPEATED = re.compile(r"(.)\1{2,}")

# Scripts without spaces between words, and Hangul, whose words grow endings.
_HAN_KANA = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_HANGUL = "\uac00-\ud7a3"
_EAST_ASIAN = re.compile(f"[{_HAN_KANA}{_HANGUL}]")
_EAST_ASIAN_GAP = re.compile(rf"(?<=[{_HAN_KANA}])(?:[^\w,、，。;；]|_){{1,3}}(?=[{_HAN_KANA}])")

# What may not stand before a word with this sign first: 二十代 are in their twenties, 女孩子 is said of women too.
_BOUNDS = {"十": "一二三四五六七八九", "孩": "女男"}

_BARRIER = "\n"
_POSSESSIVE = re.compile(r"['’]s(?![^\W_])")

# Spelled with gaps, shorter words would be found where two ordinary ones meet.
_GAPPED_MIN = 4
_PIECES_MAX = 3
_JOINED_MIN = 5


def tokens(folded: str) -> list[str]:
    """Words and numbers of folded text: `15yo` is two, `ch1ld` is one, `12-15` is three with a `to` between."""
    text = _RANGE.sub(" to ", _THOUSANDS.sub("", folded))
    return _TOKEN.findall(letters_for_signs(text))


def without_gaps(folded: str) -> str:
    """Chinese and Japanese without the gaps that such text does not have."""
    return _EAST_ASIAN_GAP.sub("", folded)


@dataclass(frozen=True, slots=True)
class _Table:
    """Phrases by their first word, as tuples of words."""

    words: dict[str, tuple[tuple[str, ...], ...]]
    stems: tuple[str, ...]
    innocent: dict[str, tuple[tuple[str, ...], ...]]

    def among(self, found: list[str]) -> bool:
        kept = self.without_innocent(found)
        text = " ".join(kept)
        return self._at_any(kept) or any(stem in text for stem in self.stems)

    def has_phrase(self, found: list[str]) -> bool:
        return self._at_any(self.without_innocent(found))

    def _at_any(self, kept: list[str]) -> bool:
        return any(_at(self.words, kept, at) for at in range(len(kept)))

    def is_word(self, token: str) -> bool:
        return (token,) in self.words.get(token, ()) and (token,) not in self.innocent.get(token, ())

    def without_innocent(self, found: list[str]) -> list[str]:
        kept, at = [], 0
        while at < len(found):
            size = _at(self.innocent, found, at)
            # What is set aside leaves a gap that no phrase can reach across.
            kept.append(_BARRIER if size else found[at])
            at += max(1, size)
        return kept


@dataclass(slots=True)
class Phrases:
    """A set of phrases; the texts that are searched come folded.

    Args:
        words: whole words and phrases; East Asian ones also inside of words, Hangul and katakana from a word's start.
        stems: parts of words.
        innocent: phrases that are set aside first.
        joined: of `words`, those that are also found with gaps in them.
    """

    words: frozenset[str]
    stems: tuple[str, ...] = ()
    innocent: frozenset[str] = frozenset()
    joined: frozenset[str] = frozenset()
    _east: re.Pattern[str] | None = field(init=False, default=None)
    _east_innocent: re.Pattern[str] | None = field(init=False, default=None)
    _plain: _Table = field(init=False)
    _leet: _Table = field(init=False)

    def __post_init__(self) -> None:
        east = frozenset(word for word in self.words if _EAST_ASIAN.search(word))
        harmless = frozenset(word for word in self.innocent if _EAST_ASIAN.search(word))
        self._east, self._east_innocent = _anywhere(east), _anywhere(harmless)
        words, innocent = _spaced(self.words - east), _spaced(self.innocent - harmless)
        self._plain = _Table(_by_first(words), self.stems, _by_first(innocent))
        self._leet = _Table(
            _by_first(map(_unleet, words)), tuple(map(_unleet, self.stems)), _by_first(map(_unleet, innocent))
        )

    def found_in(self, folded: str) -> bool:
        """Whether any phrase is in the text."""
        plain = tokens(folded)
        return (
            self._plain.among(plain)
            or self._disguised(folded)
            or self._in_pieces(self._plain.without_innocent(plain))
            or self._east_asian(folded)
        )

    def _disguised(self, folded: str) -> bool:
        """With digits and signs for letters, letters many times over, and signs between letters."""
        table = self._leet
        found = [_unleet(token) for token in _LEET_TOKEN.findall(folded)]
        if table.among(found):
            return True
        repeated = [token for token in found if _REPEATED.search(token)]
        shorter = [_REPEATED.sub(r"\1", token) for token in repeated] + [_REPEATED.sub(r"\1\1", t) for t in repeated]
        singles = [_unleet(GAP.sub("", run)) for run in SINGLES.findall(folded)]
        return (
            any(table.has_phrase(variant) for variant in self._respelled(folded, found))
            or any(table.is_word(token) for token in singles)
            or any(stem in token for token in (*shorter, *singles) for stem in table.stems)
            or any(
                word in run
                for run in singles
                for word in table.words
                if len(word) >= _GAPPED_MIN and table.is_word(word)
            )
        )

    def _respelled(self, folded: str, found: list[str]) -> Iterator[list[str]]:
        """The words as they are with the gaps inside each closed, and with letters that were drawn out."""
        if _SPLIT.search(folded):
            chunks = _POSSESSIVE.sub(" s", folded).split()
            yield [_unleet(GAP.sub("", chunk) if _SPLIT.search(chunk) else chunk.strip(_EDGES)) for chunk in chunks]
        if any(_REPEATED.search(token) for token in found):
            yield [_REPEATED.sub(r"\1", token) for token in found]
            yield [_REPEATED.sub(r"\1\1", token) for token in found]

    def _in_pieces(self, found: list[str]) -> bool:
        """Words with a gap in them: `chi ld`. Only where the pieces are no words that meet by chance."""
        return any(
            "".join(found[at : at + size]) in self.joined
            for size in range(2, _PIECES_MAX + 1)
            for at in range(len(found) - size + 1)
        )

    def _east_asian(self, folded: str) -> bool:
        if self._east is None or not _EAST_ASIAN.search(folded):
            return False
        for text in {folded, without_gaps(folded)}:
            cleared = text if self._east_innocent is None else self._east_innocent.sub("\n", text)
            if self._east.search(cleared):
                return True
        return False


def make_phrases(
    words: Iterable[str], stems: Iterable[str] = (), innocent: Iterable[str] = (), *, joined: Iterable[str] = ()
) -> Phrases:
    """Phrases as people write them, folded like the text that they are looked for in."""
    joined_words = (fold(word) for word in joined)
    return Phrases(
        frozenset(map(fold, words)),
        tuple(map(fold, stems)),
        frozenset(map(fold, innocent)),
        frozenset(word for word in joined_words if len(word) >= _JOINED_MIN and " " not in word),
    )


def written_together(phrases: Iterable[str]) -> Iterator[str]:
    """`janedoe` for `jane doe`: phrases of several words as one, but for those too short to be told from others."""
    for phrase in phrases:
        words = tokens(fold(phrase))
        joined = "".join(words)
        if len(words) > 1 and len(joined) >= _JOINED_MIN:
            yield joined


def _spaced(phrases: Iterable[str]) -> frozenset[str]:
    return frozenset(spaced for phrase in phrases if (spaced := " ".join(tokens(phrase))))


def _by_first(phrases: Iterable[str]) -> dict[str, tuple[tuple[str, ...], ...]]:
    table: dict[str, tuple[tuple[str, ...], ...]] = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        words = tuple(phrase.split())
        table[words[0]] = (*table.get(words[0], ()), words)
    return table


def _at(table: dict[str, tuple[tuple[str, ...], ...]], found: list[str], at: int) -> int:
    """The number of words of the longest phrase that begins at `at`; 0 where none does."""
    phrases = table.get(found[at], ())
    return next((len(phrase) for phrase in phrases if tuple(found[at : at + len(phrase)]) == phrase), 0)


def _unleet(text: str) -> str:
    bare = text.rstrip("!+|¡").lstrip("!+|¡")
    return text if text.isdigit() else bare.translate(SIGNS)


def _anywhere(phrases: frozenset[str]) -> re.Pattern[str] | None:
    """Hangul and katakana words start a word: カロリー and 칼로리 are calories."""
    parts = []
    for phrase in sorted(phrases, key=lambda phrase: (-len(phrase), phrase)):
        first = phrase[0]
        if re.match(f"[{_HANGUL}]", first):
            bound = f"(?<![{_HANGUL}])"
        elif re.match("[\u30a0-\u30ff]", first):
            bound = "(?<![\u30a0-\u30ff])"
        elif first.isdigit():
            bound = r"(?<!\d)"
        elif first in _BOUNDS:
            bound = f"(?<![{_BOUNDS[first]}])"
        else:
            bound = ""
        parts.append(bound + re.escape(phrase))
    return re.compile("|".join(parts)) if parts else None
