"""Encoding: formats, thumbnails, metadata, and the detection of flat pictures."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import blurhash  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from worker.delivery.encode import (
    CREATOR_TOOL,
    DIGITAL_SOURCE_TYPE,
    EncodedPicture,
    check_pixels,
    encode_picture,
    pixel_digest,
)
from worker.events.types import OutputFormat

pytestmark = pytest.mark.filterwarnings("ignore:Image.Image.getdata:DeprecationWarning")

Pixels = npt.NDArray[np.uint8]


def encode(pixels: Pixels, output_format: str = "jpeg", thumbnail_px: int = 64) -> EncodedPicture:
    return encode_picture(
        pixels, output_format=output_format, jpeg_quality=90, thumbnail_px=thumbnail_px, job_id="job-1"
    )


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_each_format_is_what_it_says(pixels: Pixels, output_format: OutputFormat) -> None:
    encoded = encode(pixels, output_format.value)
    image = opened(encoded.data)
    assert encoded.content_type == f"image/{output_format.value}"
    assert image.format == output_format.name
    assert encoded.extension == {"jpeg": "jpg"}.get(output_format.value, output_format.value)
    assert image.size == (encoded.width, encoded.height) == (128, 96)
    assert encoded.sha256 == hashlib.sha256(encoded.data).hexdigest()


def test_the_same_pixels_give_the_same_bytes(pixels: Pixels, output_format: OutputFormat) -> None:
    assert encode(pixels, output_format.value) == encode(pixels.copy(), output_format.value)


def test_png_keeps_every_pixel(pixels: Pixels) -> None:
    assert np.array_equal(np.asarray(opened(encode(pixels, "png").data)), pixels)


def test_lossy_formats_stay_close(pixels: Pixels) -> None:
    for output_format in ("jpeg", "webp"):
        back = np.asarray(opened(encode(pixels, output_format).data).convert("RGB")).astype(int)
        assert np.abs(back - pixels).mean() < 3


def test_jpeg_keeps_full_chroma() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    back = np.asarray(opened(encode(stripes).data)).astype(int)
    assert np.abs(back - stripes).mean() < 5


@pytest.mark.parametrize("quality", [1, 90, 100])
def test_pure_noise_encodes(quality: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    encode_picture(noise, output_format="jpeg", jpeg_quality=quality, thumbnail_px=256, job_id="j")


def test_every_file_says_that_it_was_generated_and_by_which_job(pixels: Pixels, output_format: OutputFormat) -> None:
    encoded = encode(pixels, output_format.value)
    for data in (encoded.data, encoded.thumbnail):
        xmp = opened(data).info["xmp"]
        text = xmp.decode() if isinstance(xmp, bytes) else xmp
        assert f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>" in text
        assert "<dc:identifier>job-1</dc:identifier>" in text
        assert f"<xmp:CreatorTool>{CREATOR_TOOL}</xmp:CreatorTool>" in text
        assert DIGITAL_SOURCE_TYPE.encode() in data


def test_the_thumbnail_is_a_jpeg_within_its_side_and_in_proportion(pixels: Pixels, output_format: OutputFormat) -> None:
    thumbnail = opened(encode(pixels, output_format.value).thumbnail)
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (64, 48))


def test_a_small_picture_is_not_enlarged(pixels: Pixels) -> None:
    assert opened(encode(pixels, thumbnail_px=256).thumbnail).size == (128, 96)


def test_the_blurhash_shows_the_picture(pixels: Pixels) -> None:
    text = encode(pixels).blurhash
    assert len(text) == 28
    small = np.asarray(blurhash.decode(text, 8, 8)).astype(int)
    assert small[0, 0, 0] < small[0, 7, 0]
    assert small[0, 0, 1] < small[7, 0, 1]


def test_the_pixel_digest_depends_on_shape_and_every_pixel(pixels: Pixels) -> None:
    changed = pixels.copy()
    changed[-1, -1, -1] ^= 1
    turned = pixels.reshape(128, 96, 3)
    assert len({pixel_digest(p) for p in (pixels, changed, turned)}) == 3
    assert pixel_digest(np.asfortranarray(pixels)) == pixel_digest(pixels) == encode(pixels).pixel_sha256


def test_what_are_no_pixels_is_refused(pixels: Pixels) -> None:
    wrongs: list[Any] = [pixels[:, :, :2], pixels[:, :, 0], pixels.astype(np.float32)]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="uint8"):
            encode(wrong)
    with pytest.raises(ValueError, match="unknown"):
        encode(pixels, "unknown")


def test_a_picture_passes_the_check(pixels: Pixels) -> None:
    assert check_pixels(pixels) is None


def test_one_odd_block_is_enough_for_a_picture() -> None:
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    pixels[17:20, 17:20] = 200
    assert check_pixels(pixels) is None


@pytest.mark.parametrize(("level", "word"), [(0, "black"), (1, "black"), (128, "#808080"), (255, "#ffffff")])
def test_flat_pixels_are_told_apart(level: int, word: str) -> None:
    pixels = np.full((100, 60, 3), level, dtype=np.uint8)
    reason = check_pixels(pixels)
    assert reason is not None
    assert word in reason


def test_a_flat_colour_with_rounding_noise_is_still_flat() -> None:
    noise = np.random.default_rng(0).integers(0, 2, (64, 64, 3), dtype=np.uint8)
    assert check_pixels(np.uint8(40) + noise) is not None
