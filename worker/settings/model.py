"""Settings of the model: what is loaded, onto which device, and how it is made fast."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from worker import settings_checks as checks
from worker.errors import SettingsError
from worker.job import SAFE_NAME
from worker.lora_folder import is_lora_file, lora_file
from worker.lora_method import LoraMode
from worker.presets import NO_PRESET, preset_named
from worker.settings.section import Section


class ModelSettings(Section):
    """The SDXL model, its LoRAs and embeddings, device and precision, and the compiled fast path."""

    sdxl_model_id: str = Field(
        "stabilityai/stable-diffusion-xl-base-1.0",
        description="base model: Hugging Face hub id (`owner/name`, or `owner/name@revision` to pin it), folder or one "
        ".safetensors file",
    )
    sdxl_refiner_id: str | None = Field(
        "stabilityai/stable-diffusion-xl-refiner-1.0",
        description="refiner: hub id, folder or file, as for the base; with `none`, requests with high_quality are "
        "rejected",
    )
    sdxl_preset: str = Field(
        NO_PRESET,
        description="preset of a base model that was distilled to few steps (docs/presets.md); it replaces "
        "scheduler, steps and guidance of all requests; `none`: they are drawn as they ask",
    )
    sdxl_preset_lora: str | None = Field(
        None,
        description="LoRA in SDXL_LORA_PATH that makes the base a few-step model; every job that is drawn with "
        "SDXL_PRESET gets it, at weight 1",
    )
    refiner_offload: bool = Field(
        False, description="keep only one of base UNet and refiner on the device at a time: saves memory, costs time"
    )
    sdxl_lora_path: Path | None = Field(
        None,
        description="folder of LoRA files; or one .safetensors file, which is then the default LoRA "
        "and its folder the folder of LoRAs",
    )
    sdxl_embeddings_path: Path | None = Field(
        None,
        description="folder of textual-inversion files, which a prompt uses by naming them (docs/prompts.md)",
    )
    lora_mode: LoraMode = Field(
        LoraMode.MERGED,
        description="how LoRAs are applied (docs/loras.md): `merged` into a second copy of the UNet's weights, at no "
        "cost per step; `hooks` on its layers, so that pictures with different LoRAs share calls; `mixed`: by hooks "
        "where a call holds several pictures, which are small ones, and merged elsewhere",
    )
    lora_second_copy: bool = Field(
        True,
        description="keep the second copy of the weights on the device, as large as the layers that LoRAs change; off, "
        "the model's own are overwritten, and restored from host memory: for cards without room",
    )
    lora_cache_mb: int = Field(
        2048, ge=1, le=1_048_576, description="MiB that loaded LoRAs may take; more only while jobs that run need them"
    )
    lora_cache_size: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description="override: number of LoRAs that are kept loaded, beside the bound of LORA_CACHE_MB",
    )
    device: str = Field(
        "auto",
        description="device: auto, cuda, cuda:N, mps or cpu",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision of the model; `auto`: bfloat16 or else float16 on a GPU, float32 on a CPU"
    )
    digest_cache_path: Path | None = Field(
        None,
        description="file that remembers the digests of weights, so that a restart need not read them twice; "
        "unset: a file below `~/.cache/sdxl-worker`. It may lie on a volume that workers share",
    )
    vae_tile_px: Literal["auto", "none", "512", "256"] = Field(
        "auto",
        description="side of the overlapping tiles in which pictures are decoded: they need less memory, and change "
        "pixels a little; `auto`: only where the card's memory does not suffice otherwise (docs/memory.md); `none`: "
        "pictures are decoded as a whole",
    )

    fp16_accumulation: Literal["auto", "on", "off"] = Field(
        "auto",
        description="sum up matrix products of DTYPE=float16 in float16, which GeForce cards do twice as fast; `auto`: "
        "on GeForce cards (not measured; docs/fast-path.md)",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="compile the steps of pictures of COMPILE_SIZES at the start (docs/fast-path.md); `auto`: on CUDA",
    )
    compile_sizes: str = Field(
        "1024x1024",
        description="sizes of pictures that steps are compiled for, as width x height in pixels, comma separated; "
        "others are drawn as they are without COMPILE",
        pattern=r"^\d{2,5}x\d{2,5}( *, *\d{2,5}x\d{2,5}){0,15}$",
    )
    compile_chunks: int = Field(
        1, ge=1, le=8, description="compile for prompts of up to so many chunks of 75 tokens, each a shape of its own"
    )
    compile_cache_dir: Path | None = Field(
        None,
        description="folder that keeps what was compiled, best on a volume; unset: TORCHINDUCTOR_CACHE_DIR, else "
        "below the temporary folder",
    )

    @field_validator("sdxl_refiner_id")
    @classmethod
    def _is_refiner(cls, value: str | None) -> str | None:
        return checks.no_trailing_slash(value)

    @field_validator("compile_sizes")
    @classmethod
    def _are_sizes(cls, value: str) -> str:
        checks.picture_sizes(value)
        return value

    @field_validator("sdxl_preset")
    @classmethod
    def _is_preset(cls, value: str) -> str:
        preset_named(value)
        return value

    @model_validator(mode="after")
    def _model_is_consistent(self) -> Self:
        if self.sdxl_preset_lora is not None and (self.sdxl_preset == NO_PRESET or self.sdxl_lora_path is None):
            raise ValueError("SDXL_PRESET_LORA needs SDXL_PRESET and SDXL_LORA_PATH")
        return self

    def check_paths(self) -> None:
        """Look at the paths of LoRAs and embeddings, so that a wrong one is told at the start. Raises SettingsError."""
        if self.sdxl_lora_path is not None:
            try:
                checks.lora_path(self.sdxl_lora_path)
            except ValueError as error:
                raise SettingsError(f"SDXL_LORA_PATH: {error}") from None
        if self.sdxl_embeddings_path is not None:
            try:
                any(self.sdxl_embeddings_path.iterdir())
            except OSError as error:
                raise SettingsError(
                    f"SDXL_EMBEDDINGS_PATH: {self.sdxl_embeddings_path} is not a readable folder: {error.strerror}"
                ) from None
        if self.sdxl_preset_lora is not None and self.lora_dir is not None:
            file = lora_file(self.lora_dir, self.sdxl_preset_lora)
            if not SAFE_NAME.fullmatch(self.sdxl_preset_lora) or not file.is_file():
                raise SettingsError(f"SDXL_PRESET_LORA: there is no file {file}")

    @property
    def lora_dir(self) -> Path | None:
        """The folder that LoRA names are looked up in."""
        path = self.sdxl_lora_path
        return path.parent if path is not None and is_lora_file(path) else path

    @property
    def sizes_compiled(self) -> tuple[tuple[int, int], ...]:
        """COMPILE_SIZES, each once: (width, height) in pixels."""
        return checks.picture_sizes(self.compile_sizes)

    @property
    def default_lora(self) -> str | None:
        """The LoRA of requests that name none, when `SDXL_LORA_PATH` is one file."""
        path = self.sdxl_lora_path
        return path.stem if path is not None and is_lora_file(path) else None
