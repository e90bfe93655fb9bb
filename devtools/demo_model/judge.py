"""Recognise a scene from pixels alone: shape, colour, background, size and frame.

It uses the shapes and colours of `scenes.py`, but neither prompts nor models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from devtools.demo_model.scenes import (
    COLOURS,
    FRAME_RGB,
    FRAME_WIDTH,
    SHAPES,
    UNTAUGHT_SHAPES,
    Rgb,
    Scene,
    paint_shape,
    sepia,
)

# Distances between colours are Euclidean in RGB; the closest two of `COLOURS` are 120 apart.
_FRAME_DISTANCE = 50.0
_SHAPE_DISTANCE = 55.0
# With less overlap than this with every template, the shape counts as unknown.
_LEAST_OVERLAP = 0.7
# A grey picture has a mean distance of 60, a drawn scene of 100.
_SEPIA_DISTANCE = 45.0
_LEAST_AREA = 0.01  # of the picture
_TEMPLATE_PX = 64
_TEMPLATE_RADIUS = 0.45
_BIG_FROM = 0.32  # radius as a fraction of the side, between the largest small shape and the smallest big one

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a picture shows; `shape` is empty if the shape is unknown, or nothing differs from the background."""

    shape: str
    colour: str
    background: str
    size: str
    framed: bool
    overlap: float

    def shows(self, scene: Scene) -> dict[str, bool]:
        """Return for each property whether it is the same as in `scene`."""
        return {
            "shape": self.shape == scene.shape,
            "colour": self.colour == scene.colour,
            "background": self.background == scene.background,
            "size": self.size == scene.size,
            "frame": self.framed == scene.framed,
        }


def look(picture: Image.Image) -> Seen:
    """Recognise the scene in a square RGB picture of any size."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    side = pixels.shape[0]
    edge = max(1, round(FRAME_WIDTH * side))
    rim = _band(pixels, edge // 4, max(1, edge // 2))
    ground = _band(pixels, edge + edge // 4, max(1, edge // 2))
    framed = _distance(rim, np.array(FRAME_RGB)) < _FRAME_DISTANCE < _distance(rim, ground) + 20
    inner = pixels[edge + 1 : side - edge - 1, edge + 1 : side - edge - 1]
    away = np.linalg.norm(inner - ground, axis=2)
    standing_out = inner[away > max(_SHAPE_DISTANCE, 0.7 * float(away.max()))]
    if len(standing_out) < _LEAST_AREA * side * side:
        return Seen("", "", nearest_colour(ground), "", bool(framed), 0.0)
    colour = np.median(standing_out, axis=0)
    mask: Mask = np.linalg.norm(inner - colour, axis=2) < away
    shape, overlap = _best_template(mask)
    radius = float(np.sqrt(mask.sum() / _templates()[shape].sum())) * _extent(shape) / side
    known = overlap >= _LEAST_OVERLAP
    return Seen(
        shape if known else "",
        nearest_colour(colour),
        nearest_colour(ground),
        "big" if radius > _BIG_FROM else "small",
        bool(framed),
        overlap,
    )


def is_sepia(picture: Image.Image) -> bool:
    """Return whether the picture has only the browns of `scenes.sepia`."""
    away = np.asarray(picture.convert("RGB"), np.float32) - np.asarray(sepia(picture), np.float32)
    return float(np.linalg.norm(away, axis=2).mean()) < _SEPIA_DISTANCE


def nearest_colour(rgb: npt.NDArray[np.floating]) -> str:
    """Return the name of the closest colour in `COLOURS`."""
    return min(COLOURS, key=lambda name: _distance(rgb, np.array(COLOURS[name])))


def _distance(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    return float(np.linalg.norm(a - b))


def _band(pixels: Pixels, offset: int, width: int) -> Pixels:
    """Return the median colour of a square band that is `width` pixels wide and `offset` pixels from the border."""
    side = pixels.shape[0]
    inside = np.zeros((side, side), dtype=bool)
    inside[offset : side - offset, offset : side - offset] = True
    inside[offset + width : side - offset - width, offset + width : side - offset - width] = False
    median: Pixels = np.median(pixels[inside], axis=0)
    return median


def _best_template(mask: Mask) -> tuple[str, float]:
    cropped = _cropped(mask)
    overlaps = {
        name: float((cropped & template).sum() / max(1, (cropped | template).sum()))
        for name, template in _templates().items()
    }
    best = max(overlaps, key=lambda name: overlaps[name])
    return best, overlaps[best]


@cache
def _templates() -> dict[str, Mask]:
    """Return the mask of every shape, scaled to its bounding square."""
    return {shape: _cropped(_stencil(shape)) for shape in SHAPES + UNTAUGHT_SHAPES}


def _stencil(shape: str) -> Mask:
    side = 4 * _TEMPLATE_PX
    picture = Image.new("RGB", (side, side))
    white: Rgb = (255, 255, 255)
    paint_shape(ImageDraw.Draw(picture), shape, (0.5, 0.5), _TEMPLATE_RADIUS, side, white, (0, 0, 0))
    return np.asarray(picture)[:, :, 0] > 127


@cache
def _extent(shape: str) -> float:
    """Return a shape's radius in pixels when its bounding box fills a template."""
    rows, columns = np.nonzero(_stencil(shape))
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    return _TEMPLATE_PX * _TEMPLATE_RADIUS * 4 * _TEMPLATE_PX / float(extent)


def _cropped(mask: Mask) -> Mask:
    """Crop a mask to its bounding box without the outermost hundredth, make it square, and scale it to a template."""
    rows, columns = np.nonzero(mask)
    top, bottom = (round(float(q)) for q in np.quantile(rows, (0.005, 0.995)))
    left, right = (round(float(q)) for q in np.quantile(columns, (0.005, 0.995)))
    extent = max(bottom - top, right - left) + 1
    y, x = (top + bottom + 1 - extent) / 2, (left + right + 1 - extent) / 2
    box = (round(x), round(y), round(x) + extent, round(y) + extent)
    picture = Image.fromarray(mask.astype(np.uint8) * 255).crop(box)
    return np.asarray(picture.resize((_TEMPLATE_PX, _TEMPLATE_PX), Image.Resampling.BILINEAR)) > 127
