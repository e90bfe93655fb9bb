"""The bench's stand-in for a GPU: what it draws is a picture in the worker's eyes."""

from __future__ import annotations

import pytest

from devtools.bench.fleet.device import slope
from worker.delivery.encode import check_pixels


@pytest.mark.parametrize(("height", "width"), [(64, 64), (1024, 768)])
def test_its_pictures_are_not_refused(height: int, width: int) -> None:
    pixels = slope(height, width)
    assert pixels.shape == (height, width, 3)
    assert check_pixels(pixels) is None
