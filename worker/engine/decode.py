"""Decode latents to pixels as `StableDiffusionXLPipeline.__call__` and `VaeImageProcessor` do, and reject bad ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from worker.errors import ErrorCode, RequestRejected

# What reads the pixels on the host, once the device has finished.
Finish = Callable[[], npt.NDArray[np.uint8]]


def decode(vae: Any, latents: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Decode one row's latents to pixels, (height, width, 3) RGB uint8 on the host.

    The pixels are converted on the device and copied once; `VaeImageProcessor` takes 30 ms per picture on a CPU.

    Raises:
        RequestRejected: `model_error`, if the latents or the picture contain NaN, or the picture has a single colour.
    """
    return begin_decode(vae, latents, torch.Tensor.cpu)()


def begin_decode(vae: Any, latents: torch.Tensor, to_host: Callable[[torch.Tensor], torch.Tensor]) -> Finish:
    """Give a decode to the device without waiting for it; see `decode`.

    Args:
        to_host: copies a tensor to the host, where it may be read once the device has finished.

    Returns:
        What returns the pixels or raises, to be called once the device has finished.
    """
    with _precision(vae, latents.dtype) as dtype:
        decoded = vae.decode(_unscale(vae, latents.to(dtype)), return_dict=False)[0]
    pixels = (decoded[0].to(torch.float32) / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    found = [torch.isfinite(latents).all(), torch.isfinite(decoded).all(), (pixels != pixels[:, :1, :1]).any()]
    fit, shown = to_host(torch.stack(found)), to_host(pixels.permute(1, 2, 0).contiguous())

    def finish() -> npt.NDArray[np.uint8]:
        finite, decodable, coloured = fit.tolist()
        if not finite:
            raise RequestRejected(ErrorCode.MODEL_ERROR, "the UNet returned NaN: use bfloat16 or float32")
        if not decodable:
            raise RequestRejected(
                ErrorCode.MODEL_ERROR, "the VAE returned NaN: use bfloat16 or float32, or a VAE made for float16"
            )
        if not coloured:
            raise RequestRejected(ErrorCode.MODEL_ERROR, "the picture has a single colour")
        array: npt.NDArray[np.uint8] = shown.numpy()
        return array

    return finish


def is_converted(vae: Any, dtype: torch.dtype) -> bool:
    """Whether a VAE is brought to float32 and back for every picture whose latents have this dtype."""
    return dtype == torch.float16 and bool(vae.config.force_upcast) and vae.dtype != torch.bfloat16


@contextmanager
def _precision(vae: Any, dtype: torch.dtype) -> Iterator[torch.dtype]:
    """Yield the dtype to decode in: float32 for a VAE that overflows in float16 (`force_upcast`), otherwise its own.

    Such a VAE that was loaded in bfloat16 (`models/numerics.py`) is left so: bfloat16 does not overflow.

    The latents' dtype decides, because a VAE that ran out of memory while it was converted has two dtypes.
    """
    if not is_converted(vae, dtype):
        yield vae.dtype
        return
    # The VAE's own `to` would log a warning each time.
    try:
        torch.nn.Module.to(vae, torch.float32)
        yield torch.float32
    finally:
        torch.nn.Module.to(vae, torch.float16)


def _unscale(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        plain: torch.Tensor = latents / vae.config.scaling_factor
        return plain
    mean = torch.tensor(mean).view(1, -1, 1, 1).to(latents.device, latents.dtype)
    std = torch.tensor(std).view(1, -1, 1, 1).to(latents.device, latents.dtype)
    shifted: torch.Tensor = latents * std / vae.config.scaling_factor + mean
    return shifted
