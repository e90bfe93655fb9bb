"""The memory that a UNet call and a decode need beside the weights. Pure.

The figures are the peaks of the tensors that diffusers' networks hold at the same time, traced on the meta device
(`tests/memory_plan`); they grow with samples and picture size and with nothing else, since attention stores no scores.
"""

from __future__ import annotations

from collections.abc import Sequence

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PX_PER_LATENT = 8
# Latents of a picture of 1024².
LATENTS_1024 = 128 * 128

# Numbers per sample, latent position and channel of the UNet's first level: 5,040 of SDXL's base, 6,048 of its refiner.
_UNET_PER_CHANNEL = 15.75
# Tensors of the second level's channels, at the size of the picture, that the VAE's last block holds at once.
_VAE_TENSORS = 3


def unet_bytes(channels: int, samples: int, positions: int, dtype: str) -> int:
    """Return the bytes of a call of `samples` samples on latents of `positions` (height x width)."""
    return int(_UNET_PER_CHANNEL * channels * samples * positions * DTYPE_BYTES[dtype])


def vae_bytes(channels: Sequence[int], positions: int, dtype: str, tile_px: int | None = None) -> int:
    """Return the bytes of a decode of one picture's latents of `positions`.

    Args:
        channels: of the VAE's levels, the largest picture's first.
        tile_px: side of the tiles that the picture is decoded in; None: as a whole.
    """
    factor = 2 ** (len(channels) - 1)
    at_once = positions if tile_px is None else min(positions, (tile_px // factor) ** 2)
    wide = channels[min(1, len(channels) - 1)]
    # The finished tiles, and the picture that they are joined to.
    joined = 0 if at_once == positions else 9 * positions * factor**2
    return int((_VAE_TENSORS * wide * at_once * factor**2 + 4 * positions + joined) * DTYPE_BYTES[dtype])
