"""The check of finished pictures: scores, thresholds, blur, and detectors that fail."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.engine.scenario import make_job
from worker.engine import safety
from worker.engine.safety import Pixels, Screen, blurred, make_screen, skin_share, threshold_of
from worker.errors import ErrorCode, RequestRejected, SettingsError
from worker.picture import Picture, Timing
from worker.settings import Settings, load_settings

THRESHOLDS = {0: 0.2, 30: 0.5, 80: 1.0}


@pytest.fixture(autouse=True)
def _nothing_loaded() -> None:
    safety._working.cache_clear()


def picture(nsfw_level: int = 0) -> Picture:
    job = make_job("j")
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    job = replace(job, request=replace(job.request, nsfw_level=nsfw_level))
    return Picture(job, pixels, Timing(1.0, 1.0, 1.0, 1.0))


def screen(score: object, *, blur: bool = False) -> Screen:
    def detector(pixels: Pixels, /) -> float:
        assert pixels.dtype == "uint8"
        assert pixels.shape[2] == 3
        if isinstance(score, Exception):
            raise score
        return score  # type: ignore[return-value]

    return Screen(detector, THRESHOLDS, blur)


@pytest.mark.parametrize(
    ("level", "threshold"), [(0, 0.2), (1, 0.2), (29, 0.2), (30, 0.5), (79, 0.5), (80, 1.0), (100, 1.0)]
)
def test_each_level_has_the_threshold_of_the_last_listed_one(level: int, threshold: float) -> None:
    assert threshold_of(THRESHOLDS, level) == threshold
    passed = screen(threshold)(picture(level))
    assert (passed.nsfw_score, passed.blurred) == (threshold, False)
    assert passed.pixels is not None
    if threshold < 1:
        with pytest.raises(RequestRejected) as caught:
            screen(threshold + 0.01)(picture(level))
        assert caught.value.code is ErrorCode.CONTENT_REJECTED
        assert f"nsfw_level {level} " in caught.value.message


def test_blur_leaves_a_score_and_no_picture_to_speak_of() -> None:
    original = picture()
    result = screen(0.9, blur=True)(original)
    assert (result.nsfw_score, result.blurred) == (0.9, True)
    assert result.pixels.shape == original.pixels.shape
    assert result.pixels.std() < original.pixels.std() / 10
    assert np.array_equal(result.pixels, blurred(original.pixels))


@pytest.mark.parametrize("score", [ValueError("no"), float("nan"), -0.1, 1.1, "high", None, MemoryError()])
@pytest.mark.parametrize("blur", [True, False])
def test_no_picture_leaves_without_its_score(score: object, blur: bool) -> None:
    with pytest.raises(RequestRejected) as caught:
        screen(score, blur=blur)(picture(100))
    assert caught.value.code is ErrorCode.INTERNAL
    assert caught.value.code.retryable
    assert "detector" in caught.value.message


def plugin(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    module = ModuleType("house_detectors")
    for name, value in attributes.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "house_detectors", module)


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def test_without_a_detector_a_picture_goes_through_as_it_is() -> None:
    one = picture()
    assert make_screen(settings())(one) is one


def test_a_plug_in_is_a_function_or_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def __call__(self, pixels: Pixels) -> np.float32:
            return np.float32(pixels.mean() > 0) / np.float32(2)

    plugin(monkeypatch, half=lambda _: 0.5, Model=Model)
    for name in ("house_detectors:half", "house_detectors:Model"):
        made = make_screen(settings(nsfw_detector=name, nsfw_thresholds=THRESHOLDS))
        assert made(picture(30)).nsfw_score == 0.5
        with pytest.raises(RequestRejected, match=r"score is 0\.50"):
            made(picture(0))


def _broken(_pixels: Pixels) -> float:
    raise RuntimeError("no weights")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_module_at_all:score", "cannot be found"),
        ("house_detectors:missing", "cannot be found"),
        ("house_detectors:number", "not callable"),
        ("house_detectors:broken", "RuntimeError: no weights"),
        ("house_detectors:percent", "not from 0 to 1"),
    ],
)
def test_a_detector_that_cannot_be_used_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    plugin(monkeypatch, number=5, broken=_broken, percent=lambda _: 55)
    with pytest.raises(SettingsError, match=rf"NSFW_DETECTOR: .*{problem}"):
        make_screen(settings(nsfw_detector=name))


def test_nudenet_is_asked_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of its interface: the package is AGPL-3.0, so that it is no dependency, nor one of the tests."""
    found = [
        {"class": "FACE_FEMALE", "score": 0.9},
        {"class": "FEMALE_BREAST_EXPOSED", "score": 0.6},
        {"class": "BUTTOCKS_EXPOSED", "score": 0.3},
        {"class": "FEMALE_GENITALIA_COVERED", "score": 0.8},
    ]

    class NudeDetector:
        def detect(self, pixels: Pixels) -> list[dict[str, Any]]:
            return found if pixels[0, 0].tolist() == [3, 2, 1] else []

    module = ModuleType("nudenet")
    module.NudeDetector = NudeDetector  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nudenet", module)
    made = make_screen(settings(nsfw_detector="nudenet"))
    assert made(picture(100)).nsfw_score == 0.0
    red_first = np.full((8, 8, 3), (1, 2, 3), np.uint8)
    assert made(replace(picture(100), pixels=red_first)).nsfw_score == 0.6


@pytest.mark.parametrize("tone", [(255, 224, 196), (224, 172, 138), (190, 120, 90), (141, 85, 60), (90, 56, 40)])
def test_skin_of_several_tones_is_seen(tone: tuple[int, int, int]) -> None:
    assert skin_share(np.full((64, 64, 3), tone, np.uint8)) == 1.0


@pytest.mark.parametrize(
    "tone", [(0, 0, 0), (255, 255, 255), (30, 90, 200), (40, 160, 60), (128, 128, 128), (230, 30, 220)]
)
def test_other_colours_are_not_skin(tone: tuple[int, int, int]) -> None:
    assert skin_share(np.full((64, 64, 3), tone, np.uint8)) == 0.0


def test_half_a_picture_of_skin_is_half() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = (224, 172, 138)
    assert skin_share(pixels) == 0.5
    made = make_screen(settings(nsfw_detector="skin", nsfw_thresholds=THRESHOLDS))
    assert made(replace(picture(30), pixels=pixels)).nsfw_score == 0.5


@pytest.mark.parametrize(
    ("thresholds", "problem"),
    [
        ({}, "begin with 0"),
        ({1: 0.5}, "begin with 0"),
        ({-1: 0.1, 0: 0.5}, "begin with 0"),
        ({0: 0.5, 101: 0.6}, "end at 100"),
        ({0: 0.5, 50: 0.4}, "must not allow less"),
        ({0: -0.1}, "from 0 to 1"),
        ({0: 1.1}, "from 0 to 1"),
        ({0: float("nan")}, "finite number"),
    ],
)
def test_thresholds_that_contradict_each_other_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, thresholds: dict[int, float], problem: str
) -> None:
    monkeypatch.setenv("NSFW_THRESHOLDS", json.dumps(thresholds))
    with pytest.raises(SettingsError, match=rf"NSFW_THRESHOLDS(\.\d+)?: .*{problem}"):
        load_settings()


def test_thresholds_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSFW_THRESHOLDS", '{"0": 0.25, "40": 1}')
    assert load_settings().nsfw_thresholds == {0: 0.25, 40: 1.0}
    monkeypatch.setenv("NSFW_DETECTOR", "rm -rf /")
    with pytest.raises(SettingsError, match="NSFW_DETECTOR"):
        load_settings()
