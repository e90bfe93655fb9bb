"""After the GPU: how bare a picture is, and what becomes of one that is barer than its request allows.

It runs in the delivery's pool, not on the GPU's thread. `docs/content-rules.md` says what the detectors are worth.
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from PIL import Image, ImageFilter

from worker.errors import ErrorCode, RequestRejected, SettingsError
from worker.job import Picture
from worker.settings import Settings

Pixels = npt.NDArray[np.uint8]

# The blur's radius, as a part of the longer side: nothing is left but a composition of colours.
_BLUR_PART = 1 / 16

# Skin in YCbCr, whatever its tone: Chai & Ngan, IEEE Trans. Circuits Syst. Video Technol. 9(4), 1999.
_CB, _CR = (77, 127), (133, 173)
_SKIN_STRIDE = 4

_NUDENET_EXPOSED = frozenset(
    {
        "ANUS_EXPOSED",
        "BUTTOCKS_EXPOSED",
        "FEMALE_BREAST_EXPOSED",
        "FEMALE_GENITALIA_EXPOSED",
        "MALE_GENITALIA_EXPOSED",
    }
)

_log = structlog.get_logger(__name__)


class Detector(Protocol):
    """Scores (height, width, 3) RGB uint8 pixels from 0, dressed, to 1. Called by one thread at a time."""

    def __call__(self, pixels: Pixels, /) -> float: ...


@dataclass(frozen=True, slots=True)
class Screen:
    """Scores a picture and holds it to its request's level.

    Args:
        thresholds: the highest score that passes, from each level up; level 0 is among them.
        blur: deliver what is beyond it blurred, instead of not at all.
    """

    detector: Detector
    thresholds: Mapping[int, float]
    blur: bool
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, picture: Picture) -> Picture:
        """The picture with its score, blurred where that is the rule.

        Raises:
            RequestRejected: `content_rejected`; or `internal`, when there is no score: none leaves without one.
        """
        level = picture.job.request.nsfw_level
        score, threshold = self._score(picture.pixels), threshold_of(self.thresholds, level)
        if score <= threshold:
            return replace(picture, nsfw_score=score)
        if self.blur:
            return replace(picture, nsfw_score=score, pixels=blurred(picture.pixels), blurred=True)
        raise RequestRejected(
            ErrorCode.CONTENT_REJECTED,
            f"the picture came out barer than nsfw_level {level} allows:"
            f" it scores {score:.2f}, and the limit is {threshold:g}",
        )

    def _score(self, pixels: Pixels) -> float:
        try:
            with self._lock:
                return _checked(self.detector(pixels))
        except Exception as error:  # whatever a plug-in raises, this job ends here and the others go on
            _log.error("nsfw_detector_failed", exc_info=True)
            message = f"the nsfw detector failed ({type(error).__name__}), and no picture leaves without its score"
            raise RequestRejected(ErrorCode.INTERNAL, message) from error


def threshold_of(thresholds: Mapping[int, float], level: int) -> float:
    """The threshold of the highest listed level that is not above `level`."""
    return thresholds[max(listed for listed in thresholds if listed <= level)]


def blurred(pixels: Pixels) -> Pixels:
    """The same pixels every time; a replay blurs the picture that it has made again."""
    radius = max(pixels.shape[:2]) * _BLUR_PART
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def make_screen(settings: Settings) -> Callable[[Picture], Picture]:
    """What every picture goes through before it is encoded; without a detector, nothing.

    Raises:
        SettingsError: NSFW_DETECTOR cannot be used.
    """
    name = settings.nsfw_detector
    if name == "none":
        return lambda picture: picture
    return Screen(_working(name), settings.nsfw_thresholds, settings.nsfw_action == "blur")


@cache
def _working(name: str) -> Detector:
    """Loaded once, and tried on a black picture."""
    detector = _load(name)
    try:
        _checked(detector(np.zeros((64, 64, 3), np.uint8)))
    except Exception as error:  # a plug-in's own; the start is the time to tell
        raise SettingsError(f"NSFW_DETECTOR: {name} cannot score a picture: {type(error).__name__}: {error}") from error
    return detector


def skin_share(pixels: Pixels) -> float:
    """The share of the picture that has the colour of skin. Sand and wood have it too."""
    red, green, blue = np.moveaxis(pixels[::_SKIN_STRIDE, ::_SKIN_STRIDE].astype(np.float32), -1, 0)
    # ITU-R BT.601, as JPEG has it.
    cb = 128 - 0.168736 * red - 0.331264 * green + 0.5 * blue
    cr = 128 + 0.5 * red - 0.418688 * green - 0.081312 * blue
    return float(((cb >= _CB[0]) & (cb <= _CB[1]) & (cr >= _CR[0]) & (cr <= _CR[1])).mean())


def _load(name: str) -> Detector:
    if name == "skin":
        return skin_share
    if name == "nudenet":
        return _nudenet()
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"NSFW_DETECTOR: {name} cannot be found: {error}") from error
    # A class is a detector once it is made, which may load a model.
    detector: Detector = found() if isinstance(found, type) else found
    if not callable(detector):
        raise SettingsError(f"NSFW_DETECTOR: {name} is not callable")
    return detector


def _nudenet() -> Detector:
    """The surest of the body parts that are found bare."""
    try:
        nudenet: Any = importlib.import_module("nudenet")
    except ImportError as error:
        raise SettingsError(
            f"NSFW_DETECTOR: nudenet cannot be imported ({error}); it is AGPL-3.0 and does not come with the worker:"
            " pip install nudenet"
        ) from error
    model = nudenet.NudeDetector()

    def score(pixels: Pixels, /) -> float:
        # It takes what OpenCV reads: blue first.
        found = model.detect(np.ascontiguousarray(pixels[..., ::-1]))
        return max((part["score"] for part in found if part["class"] in _NUDENET_EXPOSED), default=0.0)

    return score


def _checked(score: float) -> float:
    score = float(score)
    if not (math.isfinite(score) and 0 <= score <= 1):
        raise ValueError(f"a score of {score} is not from 0 to 1")
    return score
