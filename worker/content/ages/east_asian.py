"""Ages stated in Chinese, Japanese and Korean, in folded text. Pure.

These have no spaces between words, so the text is read by expressions, made of the tables, and not by tokens.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from worker.content.ages.language import ADULT_YEARS
from worker.content.fold import fold
from worker.content.phrases import without_gaps

_LANGUAGES = ("ja", "zh", "ko")
_HAN_DIGITS = {"〇": 0, "零": 0} | {sign: i + 1 for i, sign in enumerate("一二三四五六七八九")} | {"两": 2, "兩": 2}
_HAN = "〇零一二三四五六七八九十百千两兩"
_NUMBER = rf"(?:\d{{1,4}}|[{_HAN}]{{1,6}})"
# Signs and gaps that may stand within an age.
_SIGNS = r"[\s・·.:=\-_*()（）\[\]<>|#/]"
_UNDERAGE = r"(?:1[3-8]|十[三四五六七八])"


def _any(key: str) -> str:
    """An expression for the words of one list in the three tables; it matches nothing where all are empty."""
    words = {fold(word) for name in _LANGUAGES for word in _tables()[name][key]}
    return "(?:" + "|".join(map(re.escape, sorted(words, key=lambda word: (-len(word), word)))) + ")"


@cache
def _tables() -> dict[str, dict[str, list[str]]]:
    folder = files("worker.content.ages").joinpath("tables")
    return {name: tomllib.loads(folder.joinpath(f"{name}.toml").read_text(encoding="utf-8")) for name in _LANGUAGES}


_UNIT = rf"{_SIGNS}{{0,3}}{_any('before_unit')}?{_SIGNS}{{0,3}}(?!{_any('not_units')}){_any('units')}"
_NO_DIGIT_BEFORE, _NO_DIGIT_AFTER = rf"(?<![\d{_HAN}.])", rf"(?![\d{_HAN}])"
_STATED = (
    re.compile(rf"{_NO_DIGIT_BEFORE}(?P<age>{_NUMBER}){_UNIT}"),
    # 12~15歳, 十五、六岁: the first of them.
    re.compile(rf"{_NO_DIGIT_BEFORE}(?P<age>{_NUMBER})\s?(?:{_any('to')}|[、,，~〜\-–/])\s?{_NUMBER}{_UNIT}"),
    re.compile(
        rf"{_any('markers')}(?:{_SIGNS}|{_any('fill')}){{0,6}}(?P<age>{_NUMBER}){_NO_DIGIT_AFTER}(?!\s*{_any('counters')})"
    ),
)
_NO_AGE_OF_ADULTS = re.compile(
    rf"{_any('under_before')}\s*{_UNDERAGE}{_NO_DIGIT_AFTER}"
    rf"|{_NO_DIGIT_BEFORE}{_UNDERAGE}\s*{_any('units')}?\s*{_any('under_after')}"
    rf"|{_any('infant_before')}\s?{_NUMBER}|{_NUMBER}\s?{_any('infant_after')}"
    rf"|{_any('classes')}[一二三四五六1-6]\s*{_any('pupils')}|{_any('idioms')}"
)
_KANA_ONES = {
    "いっ": 1, "に": 2, "さん": 3, "よん": 4, "ご": 5, "ろく": 6, "なな": 7, "はっ": 8, "はち": 8, "きゅう": 9,
}  # fmt: skip
_KANA_AGE = re.compile(rf"(?<![ぁ-ん])(?P<ten>じゅう|じゅっ)?(?P<one>{'|'.join(_KANA_ONES)})?(?:さい(?![ぁ-ん])|歳|才)")
_NATIVE = {word: i + 1 for i, word in enumerate(["한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉"])}
_NATIVE_AGE = re.compile(
    r"(?P<tens>(?:스물|스무|서른|마흔|쉰|예순|일흔|여든|아흔)\s?)?(?P<ten>열)?\s?"
    rf"(?P<one>{'|'.join(_NATIVE)})?[\s\-_.·]{{0,3}}살(?=$|[^가-힣]|[의인이짜에된을은반도쯤])"
)
_SINO = {sign: i + 1 for i, sign in enumerate("일이삼사오육칠팔구")}
_ONE = f"[{''.join(_SINO)}]"
_SINO_AGE = re.compile(rf"(?<![가-힣])(?P<tens>{_ONE}?)(?P<ten>십?)(?P<one>{_ONE}?)\s?(?!{_any('not_units')})(?:세|살)")
_FRACTION = re.compile(r"(?<=\d)[.,]\d(?=\D)")


def states_minor_age(folded: str) -> bool:
    """Whether the text states an age under 18 in one of the three languages."""
    whole = _FRACTION.sub("", folded)
    return any(
        _NO_AGE_OF_ADULTS.search(text) or any(years < ADULT_YEARS for years in _stated_years(text))
        for text in {whole, without_gaps(whole)}
    )


def _stated_years(text: str) -> Iterator[int]:
    for pattern in _STATED:
        yield from (_han_value(found["age"]) for found in pattern.finditer(text))
    for found in _NATIVE_AGE.finditer(text):
        if not found["tens"] and (found["ten"] or found["one"]):
            yield (10 if found["ten"] else 0) + _NATIVE.get(found["one"] or "", 0)
    yield from (value for found in _SINO_AGE.finditer(text) if (value := _sino_value(**found.groupdict())))
    for found in _KANA_AGE.finditer(text):
        if found["ten"] or found["one"]:
            yield (10 if found["ten"] else 0) + _KANA_ONES.get(found["one"] or "", 0)


def _han_value(text: str) -> int:
    """十五 is 15, 二十五 is 25, 一五 is 15, and of 十五六, 15 or 16, the lower one."""
    if text.isdigit() and text.isascii():
        return int(text)
    if "百" in text or "千" in text:
        return 100
    tens, ten, ones = text.partition("十")
    if not ten:
        # 七八岁 is seven or eight, 一五岁 is 15, 二八岁 is left as it is read: 28.
        digits = [_HAN_DIGITS[sign] for sign in text]
        if len(digits) == 2 and digits[1] == digits[0] + 1:
            return digits[0]
        return int("".join(map(str, digits)))
    return 10 * (_HAN_DIGITS.get(tens[-1], 0) if tens else 1) + (_HAN_DIGITS.get(ones[0], 0) if ones else 0)


def _sino_value(tens: str, ten: str, one: str) -> int:
    if ten:
        return 10 * _SINO.get(tens, 1) + _SINO.get(one, 0)
    return 0 if tens and one else _SINO.get(tens or one, 0)
