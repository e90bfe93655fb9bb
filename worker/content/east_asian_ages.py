"""Ages stated in Chinese, Japanese and Korean, in folded text. Pure."""

from __future__ import annotations

import re

from worker.content.phrases import without_gaps

_HAN_DIGITS = {"〇": 0, "零": 0} | {sign: i + 1 for i, sign in enumerate("一二三四五六七八九")}
_HAN = "〇零一二三四五六七八九十百千"
# 세기 is a century, 세대 a generation.
_YEARS = rf"(?<![\d{_HAN}])(?P<age>\d{{1,4}}|[{_HAN}]+)\s*(?:周?歳|才|さい|周?岁|周?歲|살|세(?![기대]))"
_COUNTED = re.compile(_YEARS)
_UNDER = re.compile(
    r"(?:未[满滿満]|不[满滿])\s*(?:18|十八)|(?<!\d)18\s*(?:歳未満|才未満|岁以下|歲以下|세\s*미만)|(?<!二)十八(?:歳未満|岁以下|歲以下)"
)

_NATIVE = {word: i + 1 for i, word in enumerate(["한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉"])}
_NATIVE_AGE = re.compile(
    r"(?P<tens>(?:스물|스무|서른|마흔|쉰|예순|일흔|여든|아흔)\s?)?(?P<ten>열)?\s?"
    rf"(?P<one>{'|'.join(_NATIVE)})?\s?살(?=$|[^가-힣]|[의인이짜])"
)
_SINO = {sign: i + 1 for i, sign in enumerate("일이삼사오육칠팔구")}
_ONE = f"[{''.join(_SINO)}]"
_SINO_AGE = re.compile(rf"(?<![가-힣])(?P<tens>{_ONE}?)(?P<ten>십?)(?P<one>{_ONE}?)\s?(?:세|살)(?![기대])")


def stated_years(folded: str) -> list[int]:
    """The ages in years that the text states; 17 for `under 18`."""
    years = []
    for text in {folded, without_gaps(folded)}:
        years += [17 for _ in _UNDER.finditer(text)]
        years += [_han_value(found["age"]) for found in _COUNTED.finditer(text)]
        years += [
            (10 if found["ten"] else 0) + _NATIVE.get(found["one"] or "", 0)
            for found in _NATIVE_AGE.finditer(text)
            if not found["tens"] and (found["ten"] or found["one"])
        ]
        years += [value for found in _SINO_AGE.finditer(text) if (value := _sino_value(**found.groupdict()))]
    return years


def _han_value(text: str) -> int:
    """十五 is 15, 二十五 is 25, 一五 is 15, and of 十五六, 15 or 16, the lower one."""
    if text.isdigit() and text.isascii():
        return int(text)
    if "百" in text or "千" in text:
        return 100
    tens, ten, ones = text.partition("十")
    if not ten:
        return int("".join(str(_HAN_DIGITS[sign]) for sign in text))
    return 10 * (_HAN_DIGITS.get(tens[-1], 0) if tens else 1) + (_HAN_DIGITS.get(ones[0], 0) if ones else 0)


def _sino_value(tens: str, ten: str, one: str) -> int:
    if ten:
        return 10 * _SINO.get(tens, 1) + _SINO.get(one, 0)
    return 0 if tens and one else _SINO.get(tens or one, 0)
