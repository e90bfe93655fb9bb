"""The other side: diffusers' own pipelines, plain or on the fast path that its documentation describes.

The fast path is that of "Accelerate inference" (optimization/fp16 in diffusers' documentation): channels_last, fused
projections of the attentions, the UNet and the VAE's decoder compiled with `max-autotune`, and inductor's options for
1 × 1 convolutions and coordinate descent. LoRAs are loaded as documented: active adapters on the plain path, fused into
the weights on the fast one.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.utils import logging as diffusers_logging

from devtools.bench.gpu.cases import GUIDANCE, LORA_WEIGHT, LORAS, NEGATIVE, SEED, Case, Kind
from worker.engine.samplers import HANDOVER, make_scheduler
from worker.job import SCHEDULERS
from worker.models.load import load_base, load_refiner

MAX_AUTOTUNE, UNCOMPILED = "max-autotune", "none"
_INDUCTOR: dict[str, Any] = {
    "conv_1x1_as_mm": True,
    "coordinate_descent_tuning": True,
    "epilogue_fusion": False,
    "coordinate_descent_check_all_directions": True,
}


@dataclass(frozen=True, slots=True)
class Source:
    """What the pipelines are loaded from, and how.

    Args:
        mode: of `torch.compile`, for the fast path; or the name of a backend, as `eager`; `none` compiles nothing.
    """

    base: str
    refiner: str
    loras: Path
    dtype: torch.dtype
    device: torch.device
    mode: str = MAX_AUTOTUNE


class DiffusersSide:
    """Pipelines with weights of their own, for one kind of picture. `close` frees them.

    `last` is the picture that was drawn last, (height, width, 3) RGB.
    """

    def __init__(self, source: Source, kind: Kind, *, fast: bool) -> None:
        options: dict[str, Any] = {"dtype": source.dtype, "device": source.device, "channels_last": fast}
        self._base: Any = load_base(source.base, **options)
        self._refiner: Any = load_refiner(source.refiner, share=self._base, **options) if kind.refined else None
        self._pipes = [pipe for pipe in (self._base, self._refiner) if pipe is not None]
        self.last: npt.NDArray[np.uint8] | None = None
        for pipe in self._pipes:
            pipe.scheduler = make_scheduler(SCHEDULERS[0], pipe.scheduler.config)
        if kind.loras:
            self._add_loras(source.loras, LORAS[: kind.loras], fuse=fast)
        if fast:
            self._compile(source.mode)

    def draw(self, case: Case, prompt: str) -> float:
        """Draw one picture; return the seconds of the call, which gives a PIL image.

        Raises:
            RuntimeError: it does not fit into memory, or cannot be compiled.
        """
        began = time.perf_counter()
        options: dict[str, Any] = {
            "negative_prompt": NEGATIVE,
            "num_inference_steps": case.steps,
            "guidance_scale": GUIDANCE,
            "generator": torch.Generator().manual_seed(SEED),
        }
        size = {"height": case.side_px, "width": case.side_px}
        if self._refiner is None:
            drawn = self._base(prompt, **size, **options)
        else:
            latents = self._base(prompt, **size, **options, denoising_end=HANDOVER, output_type="latent").images
            drawn = self._refiner(prompt, image=latents, **options, denoising_start=HANDOVER)
        seconds = time.perf_counter() - began
        self.last = np.asarray(drawn.images[0])
        return seconds

    def close(self) -> None:
        """Free the pipelines' memory."""
        self._base = self._refiner = None
        self._pipes = []
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _add_loras(self, folder: Path, names: tuple[str, ...], *, fuse: bool) -> None:
        with _quiet():
            for name in names:
                self._base.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
        self._base.set_adapters(list(names), [LORA_WEIGHT] * len(names))
        if fuse:
            self._base.fuse_lora(adapter_names=list(names))
            self._base.unload_lora_weights()

    def _compile(self, mode: str) -> None:
        for pipe in self._pipes:
            pipe.fuse_qkv_projections()
        if mode == UNCOMPILED:
            return
        how = compile_options(mode)
        for pipe in self._pipes:
            pipe.unet.compile(**how)
        vaes = {id(pipe.vae): pipe.vae for pipe in self._pipes}
        for vae in vaes.values():
            vae.decode = torch.compile(vae.decode, **how)


def compile_options(mode: str) -> dict[str, Any]:
    """Return the arguments of `torch.compile`; one graph for each size, as one gets who draws a single size."""
    how: dict[str, Any] = {"fullgraph": True, "dynamic": False}
    modes = torch._inductor.list_mode_options()
    return how | ({"options": modes[mode] | _INDUCTOR} if mode in modes else {"backend": mode})


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what diffusers and peft say about LoRAs without text encoders, and about a second one."""
    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        diffusers_logging.set_verbosity(before)
