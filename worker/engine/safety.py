"""Score the nudity of finished pictures, and blur or reject those above the limit of their request.

This runs on the delivery pool, not on the engine's thread. `docs/content-rules.md` describes how reliable the
detectors are.
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
from worker.picture import Picture
from worker.settings import Settings

Pixels = npt.NDArray[np.uint8]

# Radius of the blur as a fraction of the longer side; only the distribution of colours remains recognisable.
_BLUR_PART = 1 / 16

# Range of skin colours of all tones in YCbCr: Chai & Ngan, IEEE Trans. Circuits Syst. Video Technol. 9(4), 1999.
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
    """Scores (height, width, 3) RGB uint8 pixels from 0 (no nudity) to 1. It is called by one thread at a time."""

    def __call__(self, pixels: Pixels, /) -> float: ...


@dataclass(frozen=True, slots=True)
class Screen:
    """Scores a picture, and applies the limit for its request's `nsfw_level`.

    Args:
        thresholds: for each listed level, the highest score that passes from that level up; level 0 is listed.
        blur: whether a picture above the limit is delivered blurred instead of being rejected.
    """

    detector: Detector
    thresholds: Mapping[int, float]
    blur: bool
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, picture: Picture) -> Picture:
        """Return the picture with its score; it is blurred if it is above the limit and `blur` is set.

        Raises:
            RequestRejected: `content_rejected` for a picture above the limit; `internal` if the detector failed,
                because no picture is delivered without a score.
        """
        level = picture.job.request.nsfw_level
        score, threshold = self._score(picture.pixels), threshold_of(self.thresholds, level)
        if score <= threshold:
            return replace(picture, nsfw_score=score)
        if self.blur:
            return replace(picture, nsfw_score=score, pixels=blurred(picture.pixels), blurred=True)
        raise RequestRejected(
            ErrorCode.CONTENT_REJECTED,
            f"the picture shows more nudity than nsfw_level {level} allows:"
            f" its score is {score:.2f}, and the limit is {threshold:g}",
        )

    def _score(self, pixels: Pixels) -> float:
        try:
            with self._lock:
                return _checked(self.detector(pixels))
        except Exception as error:  # a plug-in may raise anything; only this job must fail
            _log.error("nsfw_detector_failed", exc_info=True)
            message = f"the nsfw detector failed ({type(error).__name__}), and no picture is delivered without a score"
            raise RequestRejected(ErrorCode.INTERNAL, message) from error


def threshold_of(thresholds: Mapping[int, float], level: int) -> float:
    """Return the threshold of the highest listed level that is not above `level`."""
    return thresholds[max(listed for listed in thresholds if listed <= level)]


def blurred(pixels: Pixels) -> Pixels:
    """Blur a picture; deterministic, because a replay blurs the picture that it makes again to compare it."""
    radius = max(pixels.shape[:2]) * _BLUR_PART
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def make_screen(settings: Settings) -> Callable[[Picture], Picture]:
    """Return the function that is applied to every picture before it is encoded; without a detector, the identity.

    Raises:
        SettingsError: NSFW_DETECTOR cannot be used.
    """
    name = settings.nsfw_detector
    if name == "none":
        return lambda picture: picture
    return Screen(_working(name), settings.nsfw_thresholds, settings.nsfw_action == "blur")


@cache
def _working(name: str) -> Detector:
    """Load the detector (once per process), and try it on a black picture."""
    detector = _load(name)
    try:
        _checked(detector(np.zeros((64, 64, 3), np.uint8)))
    except Exception as error:  # a plug-in may raise anything; a faulty one must stop the start
        raise SettingsError(f"NSFW_DETECTOR: {name} cannot score a picture: {type(error).__name__}: {error}") from error
    return detector


def skin_share(pixels: Pixels) -> float:
    """Return the share of pixels that have the colour of skin. Sand and wood have it too."""
    red, green, blue = np.moveaxis(pixels[::_SKIN_STRIDE, ::_SKIN_STRIDE].astype(np.float32), -1, 0)
    # ITU-R BT.601 with JPEG's full range.
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
    # A class is instantiated, which may load a model; its instance is the detector.
    detector: Detector = found() if isinstance(found, type) else found
    if not callable(detector):
        raise SettingsError(f"NSFW_DETECTOR: {name} is not callable")
    return detector


def _nudenet() -> Detector:
    """Return a detector that scores a picture by the most confident detection of an exposed body part."""
    try:
        nudenet: Any = importlib.import_module("nudenet")
    except ImportError as error:
        raise SettingsError(
            f"NSFW_DETECTOR: nudenet cannot be imported ({error}); it is AGPL-3.0 and does not come with the worker:"
            " pip install nudenet"
        ) from error
    model = nudenet.NudeDetector()

    def score(pixels: Pixels, /) -> float:
        # NudeNet expects OpenCV's channel order, BGR.
        found = model.detect(np.ascontiguousarray(pixels[..., ::-1]))
        return max((part["score"] for part in found if part["class"] in _NUDENET_EXPOSED), default=0.0)

    return score


def _checked(score: float) -> float:
    score = float(score)
    if not (math.isfinite(score) and 0 <= score <= 1):
        raise ValueError(f"the score {score} is not from 0 to 1")
    return score
