"""Every caption of the two tables, alone and in the midst of a prompt."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.content.captions import PASSING, PHRASES, REFUSED, rejection

WITHIN = "masterpiece, best quality, {}, soft light, 85mm"


@pytest.mark.parametrize("language", sorted(REFUSED))
def test_what_points_at_a_minor_is_refused(language: str) -> None:
    through = [caption for caption in REFUSED[language] if not rejection(caption)]
    through += [caption for caption in REFUSED[language] if not rejection(WITHIN.format(caption), 100)]
    assert through == []


@pytest.mark.parametrize("language", sorted(PASSING))
def test_what_points_at_no_minor_passes(language: str) -> None:
    refused = [caption for caption in PASSING[language] if rejection(caption)]
    refused += [caption for caption in PASSING[language] if rejection(WITHIN.format(caption), 100)]
    assert refused == []


def test_no_caption_stands_twice_or_in_both_tables() -> None:
    for table in (REFUSED, PASSING):
        assert [caption for found in table.values() for caption, times in Counter(found).items() if times > 1] == []
    refused, passing = ({caption for found in table.values() for caption in found} for table in (REFUSED, PASSING))
    assert refused & passing == set()


def test_without_an_nsfw_level_none_is_refused() -> None:
    assert [caption for captions in REFUSED.values() for caption in captions if rejection(caption, 0)] == []


@pytest.mark.parametrize("phrase", PHRASES["missed"]["en"])
def test_what_the_docs_say_is_missed_is_missed(phrase: str) -> None:
    assert rejection(phrase, 100) is None


@pytest.mark.parametrize("phrase", PHRASES["hit_wrongly"]["en"])
def test_what_the_docs_say_is_hit_wrongly_is_hit(phrase: str) -> None:
    assert rejection(phrase)
    assert rejection(phrase, 0) is None
