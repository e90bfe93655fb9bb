"""Pixels in; the bytes, digests and thumbnail of a delivered picture out. Pure, and deterministic."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import blurhash  # type: ignore[import-untyped]
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

EXTENSIONS: dict[str, str] = {"jpeg": "jpg", "webp": "webp", "png": "png"}
CONTENT_TYPES: dict[str, str] = {"jpeg": "image/jpeg", "webp": "image/webp", "png": "image/png"}

# 4:4:4: halved chroma smears saturated edges (lips, neon, red on black), and costs only 1.6 ms to avoid.
_CHROMA_444 = 0
_THUMBNAIL_QUALITY = 85
# A hash of 4x3 components holds nothing that 32 pixels a side do not; 256 pixels take 35 times as long.
_BLURHASH_PX = 32
_BLURHASH_COMPONENTS = (4, 3)
# A picture whose samples all lie this close, per channel, is flat. Sampling every 16th pixel is enough
# to clear nearly all pictures; only a flat sample makes the whole picture be looked at.
_FLAT_LEVELS = 2
_SAMPLE_STRIDE = 16

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
CREATOR_TOOL = "sdxl-worker"
_XMP = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" \
xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">\
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>\
<dc:identifier>{job_id}</dc:identifier><xmp:CreatorTool>{tool}</xmp:CreatorTool>\
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPicture:
    """A picture ready to store. `thumbnail` is always a JPEG; `sha256` is that of `data`, in hex.

    `pixel_sha256` is `pixel_digest` of the pixels before encoding: what a replay compares.
    """

    data: bytes
    content_type: str
    extension: str
    thumbnail: bytes
    blurhash: str
    sha256: str
    pixel_sha256: str
    width: int
    height: int


def check_pixels(pixels: Pixels) -> str | None:
    """Why these pixels are no picture (black or one colour: a broken decode), or None for a picture."""
    if not (_is_flat(pixels[::_SAMPLE_STRIDE, ::_SAMPLE_STRIDE]) and _is_flat(pixels)):
        return None
    if int(pixels.max()) <= _FLAT_LEVELS:
        return "the model made a black picture; use a VAE that is safe in this dtype, or DTYPE=bfloat16"
    red, green, blue = (int(level) for level in pixels[0, 0])
    colour = f"#{red:02x}{green:02x}{blue:02x}"
    return f"the model made a picture of one colour ({colour}); try another seed or prompt"


def pixel_digest(pixels: Pixels) -> str:
    """SHA-256 in hex over the shape and the raw RGB bytes of (height, width, 3) uint8 pixels."""
    digest = hashlib.sha256(f"rgb8 {pixels.shape[0]}x{pixels.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def encode_picture(
    pixels: Pixels, *, output_format: str, jpeg_quality: int, thumbnail_px: int, job_id: str
) -> EncodedPicture:
    """Encode (height, width, 3) RGB uint8 pixels; the same arguments give the same bytes.

    Args:
        output_format: jpeg, webp or png.
        jpeg_quality: 1 to 100, of a JPEG or WebP picture.
        thumbnail_px: longest side of the thumbnail; a smaller picture is not enlarged.

    Raises:
        ValueError: for another format, shape or dtype.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels are (height, width, 3) uint8, not {pixels.shape} {pixels.dtype}")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    xmp = provenance(job_id)
    data = _encode(image, output_format, jpeg_quality, xmp)
    thumbnail = image.copy()
    thumbnail.thumbnail((thumbnail_px, thumbnail_px), Image.Resampling.LANCZOS)
    return EncodedPicture(
        data=data,
        content_type=CONTENT_TYPES[output_format],
        extension=EXTENSIONS[output_format],
        thumbnail=_encode(thumbnail, "jpeg", _THUMBNAIL_QUALITY, xmp),
        blurhash=_blurhash(thumbnail),
        sha256=hashlib.sha256(data).hexdigest(),
        pixel_sha256=pixel_digest(pixels),
        width=image.width,
        height=image.height,
    )


def provenance(job_id: str) -> bytes:
    """The XMP packet that says a picture was generated, and by which job. It never holds a prompt."""
    return _XMP.format(source=DIGITAL_SOURCE_TYPE, job_id=escape(job_id), tool=CREATOR_TOOL).encode()


def _encode(image: Image.Image, output_format: str, quality: int, xmp: bytes) -> bytes:
    out = io.BytesIO()
    match output_format:
        case "jpeg":
            # No optimize or progressive: Pillow 13 then fails on noisy pictures that outgrow its buffer.
            image.save(out, "JPEG", quality=quality, subsampling=_CHROMA_444, xmp=xmp)
        case "webp":
            image.save(out, "WEBP", quality=quality, xmp=xmp)
        case "png":
            # Pillow reads XMP from PNG, but its `xmp=` does not write it.
            info = PngInfo()
            info.add_itxt("XML:com.adobe.xmp", xmp.decode())
            image.save(out, "PNG", pnginfo=info)
        case _:
            raise ValueError(f"output_format {output_format!r} is not one of {', '.join(EXTENSIONS)}")
    return out.getvalue()


def _blurhash(image: Image.Image) -> str:
    small = image.resize((_BLURHASH_PX, _BLURHASH_PX), Image.Resampling.BOX)
    return str(blurhash.encode(small, *_BLURHASH_COMPONENTS))


def _is_flat(pixels: Pixels) -> bool:
    samples = pixels.reshape(-1, 3)
    return bool((samples.max(axis=0) - samples.min(axis=0) <= _FLAT_LEVELS).all())
