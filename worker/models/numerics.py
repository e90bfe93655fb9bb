"""What decides bits besides model, card and precision: memory layout, accumulation, and the VAE's precision.

All of it is chosen once at the start, from the settings and the card, never from a timing. Where a choice is not
torch's default, manifests state it and replays compare it. Only CUDA has choices: on a CPU everything stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from worker.models.cuda import is_geforce, kernel_versions, pin_kernels


class Choices(Protocol):
    """The settings that matter here."""

    @property
    def compile(self) -> str: ...
    @property
    def fp16_accumulation(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Numerics:
    """The choices of one worker.

    Args:
        told: those that are not torch's default, as manifests state them.
        versions: of the libraries that compute on the device.
    """

    told: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def apply_to_vae(self, *pipelines: Any) -> None:
        """Bring the VAEs of loaded pipelines to the chosen precision, once: a decode then converts nothing."""
        if "vae" in self.told:
            for pipeline in pipelines:
                if pipeline is not None and pipeline.vae.config.force_upcast:
                    torch.nn.Module.to(pipeline.vae, torch.bfloat16)


def choose_numerics(choices: Choices, device: torch.device, dtype: torch.dtype) -> Numerics:
    """Choose for a device, and set what torch keeps as global switches."""
    if device.type != "cuda":
        return Numerics()
    pin_kernels()
    told = choices_for(
        choices,
        dtype,
        card=torch.cuda.get_device_name(device),
        native_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
    )
    torch.backends.cuda.matmul.allow_fp16_accumulation = "accumulation" in told
    return Numerics(told, kernel_versions())


def choices_for(choices: Choices, dtype: torch.dtype, *, card: str, native_bfloat16: bool) -> dict[str, str]:
    """Return what differs from torch's default on a CUDA card. Pure.

    - Compiled steps run in channels_last, the layout of tensor cores.
    - GeForce cards sum up float16 products in float16 at twice the speed of float32 (NVIDIA's Ada GPU architecture
      whitepaper, table of the RTX 4090). Not measured here.
    - SDXL's own VAE overflows in float16 and is decoded in float32; bfloat16 does not overflow, at float16's speed.
    """
    told = {}
    if choices.compile != "off":
        told["memory_format"] = "channels_last"
    if dtype == torch.float16:
        wanted = choices.fp16_accumulation
        if wanted == "on" or (wanted == "auto" and is_geforce(card)):
            told["accumulation"] = "float16"
        if native_bfloat16:
            told["vae"] = "bfloat16"
    return told
