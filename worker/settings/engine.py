"""Settings of the step scheduler, and the limits of requests."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from worker.settings.section import DAY_S, Section

# The completion map of a partition must fit into the metadata of its committed offset (4,096 bytes at the broker's
# default): 280 unfinished records, each between long runs of finished ones, take 3,072 bytes.
MAX_BUFFER = 256


class EngineSettings(Section):
    """How rows share steps, how many jobs a partition may have unfinished, and what a request may ask for."""

    slots: int | None = Field(
        None,
        ge=1,
        le=64,
        description="override: pad every UNet call to 2 x SLOTS samples, as version 1.0 did with SLOTS=4. Unset, a "
        "table in the worker gives the size for card, precision and picture (docs/scheduling.md), which suits "
        "nearly everyone: remove SLOTS when you upgrade",
    )
    deterministic: bool = Field(
        True,
        description="give every UNet call for pictures of one size the same shape, so that the same request gives "
        "the same picture whatever else runs; off: calls of 1 to SLOTS rows (4 if unset), as it goes fastest",
    )
    priority_share: float = Field(
        0.10, ge=0, le=0.3, description="guaranteed share of the steps for a lane that waits beyond its bound"
    )
    urgent_wait_s: float = Field(
        1.0,
        ge=0,
        le=DAY_S,
        description="seconds after which a waiting urgent job counts as overdue and its lane earns PRIORITY_SHARE",
    )
    high_wait_s: float = Field(2.0, ge=0, le=DAY_S, description="the same for the high lane")
    normal_wait_s: float = Field(5.0, ge=0, le=DAY_S, description="the same for the normal lane")
    urgent_slowdown_max: float = Field(
        1.25,
        ge=1,
        le=100,
        description="rows of lower lanes join the UNet call of an urgent job while they slow its "
        "step by at most this factor",
    )
    buffer_per_partition: int = Field(
        16, ge=1, le=MAX_BUFFER, description="number of unfinished jobs of a partition at which it is paused"
    )
    crash_loop_limit: int = Field(
        3, ge=1, le=10_000, description="number of starts without an end after which a job fails as crash_loop"
    )
    max_inference_steps: int = Field(500, ge=1, le=10_000, description="largest num_inference_steps of a request")
    max_guidance_scale: float = Field(50.0, gt=0, le=1_000, description="largest guidance_scale of a request")
    min_side: int = Field(64, ge=8, le=16_384, description="smallest width and height of a picture, in pixels")
    max_side: int = Field(2048, ge=64, le=16_384, description="largest width and height of a picture, in pixels")
    max_pixels: int = Field(
        1728 * 1024, ge=8 * 8, le=16_384**2, description="largest width × height of a picture, in pixels"
    )
    max_prompt_chars: int = Field(
        8_000,
        ge=1,
        le=1_000_000,
        description="largest number of characters of a prompt, and of a negative prompt, as sent",
    )
    max_loras: int = Field(
        8, ge=0, le=100, description="largest number of LoRAs of a job, those of its profile included"
    )
    max_lora_weight: float = Field(5.0, gt=0, le=100, description="largest weight of a LoRA, positive or negative")

    @model_validator(mode="after")
    def _limits_are_consistent(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError("MIN_SIDE is larger than MAX_SIDE")
        if self.min_side**2 > self.max_pixels:
            raise ValueError("MAX_PIXELS is smaller than a picture of MIN_SIDE")
        return self
