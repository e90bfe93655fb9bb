"""Ages stated in Chinese, Japanese and Korean, in folded text. Pure.

These have no spaces between words, so the text is read by expressions and not by tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from worker.content.ages.language import ADULT_YEARS
from worker.content.phrases import without_gaps

_HAN_DIGITS = {"〇": 0, "零": 0} | {sign: i + 1 for i, sign in enumerate("一二三四五六七八九")} | {"两": 2, "兩": 2}
_HAN = "〇零一二三四五六七八九十百千两兩"
_NUMBER = rf"(?:\d{{1,4}}|[{_HAN}]{{1,6}})"
# What may stand between a number and its unit: half, a good, a gap.
_BEFORE_UNIT = r"[\s・·.\-_*]{0,3}(?:個|个|[來来多幾几余餘])?[\s・·.\-_*]{0,3}"
# 세기 is a century, 세대 a generation, 岁月 are years, 歳月 too.
_UNIT = r"(?:周?歳(?!月)|才(?![能華华女])|さい|サイ|ちゃい|周?岁(?!月)|周?歲(?!月)|살|세(?![기대트상계]))"
_COUNTED = re.compile(rf"(?<![\d{_HAN}.])(?P<age>{_NUMBER}){_BEFORE_UNIT}{_UNIT}")
# 12~15歳, 十五、六岁: the first of them.
_LISTED = re.compile(
    rf"(?<![\d{_HAN}])(?P<age>{_NUMBER})\s?[、,，~〜\-–到至から或かや或者또는에서]{{1,3}}\s?{_NUMBER}{_BEFORE_UNIT}{_UNIT}"
)
_MARKERS = r"(?:年齢|年令|歳は|年龄|年齡|芳龄|芳齡|年方|年仅|年僅|年纪|年紀|今年|虚岁|虛歲|周岁|나이|연령|올해|만|満|满)"
_LINKS = r"[\s:=・()（）\[\]<>|#*\-_/.有上已は가는은이가が是为為约約大约只仅僅才刚剛差不多약만대략겨우고작아직もうまだわずかほんのおよそだいたいたったちょうどまさにやっと了]{0,8}"
_MARKED = re.compile(rf"{_MARKERS}{_LINKS}(?P<age>{_NUMBER})(?![\d{_HAN}])(?!\s*[年月日时時分个個か번개월일시분년])")
_UNDER = re.compile(
    r"(?:未[满滿満]|不[满滿到]|不足)\s*(?:1[3-8]|十[三四五六七八])"
    r"|(?<!\d)1[3-8]\s*(?:歳未満|歳以下|才未満|岁以下|歲以下|岁未满|세\s*미만|살\s*미만|세\s*이하)"
    r"|(?<!二)十[三四五六七八](?:歳未満|岁以下|歲以下)"
    r"|(?:还|還)?(?:没|沒)(?:有)?(?:满|滿|到)\s*(?:18|十八)|미성년|(?:高|中|初|小)[一二三四五六1-6]\s*(?:学生|學生|女生|男生|女孩|生徒|女子)"
    r"|(?:豆蔻年华|豆蔻年華|及笄|二八年华|二八年華|年方二八|二八佳人)|(?:고|중|초)[1-6]\s*(?:여학생|학생|소녀|여자|남학생)|이팔청춘"
)
_INFANT = re.compile(
    rf"{_NUMBER}\s?(?:个|個|か|ヶ|ケ|カ|箇)?(?:月大|月龄|月齡|月齢|月歳)|生後\s?{_NUMBER}"
    rf"|(?:생후)\s?\d+|\d+\s?개월\s?(?:된|아)|满月的|(?:出生|刚出生)\s?{_NUMBER}\s?(?:天|个月|個月|周|週)"
)
_KANA_ONES = {
    "いっ": 1, "に": 2, "さん": 3, "よん": 4, "ご": 5, "ろく": 6, "なな": 7, "はっ": 8, "はち": 8, "きゅう": 9,
}  # fmt: skip
_KANA_AGE = re.compile(
    rf"(?<![ぁ-ん])(?P<ten>じゅう|じゅっ)?(?P<one>{'|'.join(_KANA_ONES)})?(?:さい(?![ぁ-ん])|歳|才)"
)
_NATIVE = {word: i + 1 for i, word in enumerate(["한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉"])}
_NATIVE_AGE = re.compile(
    r"(?P<tens>(?:스물|스무|서른|마흔|쉰|예순|일흔|여든|아흔)\s?)?(?P<ten>열)?\s?"
    rf"(?P<one>{'|'.join(_NATIVE)})?[\s\-_.·]{{0,3}}살(?=$|[^가-힣]|[의인이짜에된을은반도쯤])"
)
_SINO = {sign: i + 1 for i, sign in enumerate("일이삼사오육칠팔구")}
_ONE = f"[{''.join(_SINO)}]"
_SINO_AGE = re.compile(rf"(?<![가-힣])(?P<tens>{_ONE}?)(?P<ten>십?)(?P<one>{_ONE}?)\s?(?:세|살)(?![기대트상계])")
_FRACTION = re.compile(r"(?<=\d)[.,]\d(?=\D)")


def states_minor_age(folded: str) -> bool:
    """Whether the text states an age under 18 in one of the three languages."""
    whole = _FRACTION.sub("", folded)
    return any(
        _UNDER.search(text) or _INFANT.search(text) or any(years < ADULT_YEARS for years in _stated_years(text))
        for text in {whole, without_gaps(whole)}
    )


def _stated_years(text: str) -> Iterator[int]:
    for pattern in (_COUNTED, _LISTED, _MARKED):
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
