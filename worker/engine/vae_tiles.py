"""Decode pictures in tiles, which need less memory than a whole picture.

diffusers' own tile is as large as SDXL's usual picture, so that tiling changes nothing there; it is made smaller here.
"""

from __future__ import annotations

from typing import Any


def set_tiles(vae: Any, tile_px: int | None) -> None:
    """Have `vae` decode in overlapping tiles of `tile_px` pixels; None: as a whole."""
    if tile_px is None:
        vae.disable_tiling()
        return
    vae.enable_tiling()
    vae.tile_sample_min_size = tile_px
    vae.tile_latent_min_size = tile_px // 2 ** (len(vae.config.block_out_channels) - 1)


def tiles_of(vae: Any) -> int | None:
    """Return the side of the tiles that `vae` decodes in, in pixels; None: as a whole."""
    return int(vae.tile_sample_min_size) if vae.use_tiling else None
