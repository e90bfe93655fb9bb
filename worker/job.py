"""Types that all packages share: a job and the record that it came from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from worker.presets import Preset
from worker.prompt_syntax import PromptSyntax

if TYPE_CHECKING:
    from worker.events.types import GenerationRequest


# Ids become parts of object keys, and names of LoRAs and profiles become file names; none may leave its folder.
MAX_NAME_CHARS = 128
SAFE_NAME = re.compile(rf"(?!\.)[A-Za-z0-9._-]{{1,{MAX_NAME_CHARS}}}", re.ASCII)

# The schedulers that a request may name, by diffusers' class names; the first is the default (DPM++ 2M Karras).
SCHEDULERS = (
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "LCMScheduler",
    "TCDScheduler",
)


# torch's CPU generator, from which all noise is drawn, looks at the low 32 bits of a seed.
SEED_MODULUS = 2**32


def effective_seed(seed: int) -> int:
    """What counts of a seed: 7 and 7 + 2^32 give the same noise on the CPU, and would not on a CUDA generator."""
    return seed % SEED_MODULUS


class Lane(IntEnum):
    """The lane of a job, decided by the topic of its request; a lower value is served first."""

    URGENT = 0
    HIGH = 1
    NORMAL = 2

    @property
    def label(self) -> str:
        """The lane's name in topics, headers and metric labels."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Origin:
    """The Kafka record that a job came from.

    `epoch` counts the assignments of the partition to this process. A result with an outdated epoch is discarded,
    because brokers check a commit's generation, but not who owns the partition (KAFKA-19779).
    """

    topic: str
    partition: int
    offset: int
    epoch: int


@dataclass(frozen=True, slots=True)
class AppliedProfile:
    """The profile that a prompt was composed with; `fingerprint` identifies its content at that time."""

    name: str
    fingerprint: str


class LoraMethod(StrEnum):
    """How the LoRAs of one job are applied to the UNet (`lora_method.py`); the values stand in manifests."""

    MERGED = "merged"
    HOOKS = "hooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A validated request with all defaults resolved. Times are seconds since the epoch.

    `seed` is what counts of the request's (`effective_seed`), or derived from `job_id`. `prompt` and `negative_prompt`
    include those of the profile; `prompt_syntax` says how their signs are read. `loras` holds (name, weight), including
    those of the profile, of the preset and the default one. `recorded_at` is the time of the record, None where that is
    unknown. `headers` are passed through to the results. `checkpoint` is the state that another worker saved of this
    job (`engine/checkpoint.py`). `call_samples` is set where a stored picture is made again: the samples of the UNet
    calls that it was drawn with, in place of the worker's own (`call_sizes.py`); so are `lora_method`
    (`lora_method.py`) and `compiled`, whether steps ran on the fast path; None leaves that to the worker. `preset`
    replaces what the request says about sampling, so read that from the properties below, never from `request`.
    """

    request: GenerationRequest
    lane: Lane
    origin: Origin
    seed: int
    loras: tuple[tuple[str, float], ...]
    prompt: str
    negative_prompt: str | None
    attempt: int
    requested_at: float
    received_at: float
    expires_at: float | None
    recorded_at: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    replay_id: str | None = None
    profile: AppliedProfile | None = None
    preset: Preset | None = None
    prompt_syntax: PromptSyntax = PromptSyntax.LITERAL
    call_samples: int | None = None
    lora_method: LoraMethod | None = None
    compiled: bool | None = None
    checkpoint: bytes | None = field(default=None, repr=False)

    @property
    def job_id(self) -> str:
        return self.request.job_id

    @property
    def scheduler(self) -> str:
        return self.request.scheduler if self.preset is None else self.preset.scheduler

    @property
    def num_inference_steps(self) -> int:
        return self.request.num_inference_steps if self.preset is None else self.preset.num_inference_steps

    @property
    def guidance_scale(self) -> float:
        return self.request.guidance_scale if self.preset is None else self.preset.guidance_scale

    @property
    def guided(self) -> bool:
        """Whether a step needs the negative prompt too (classifier-free guidance)."""
        return self.guidance_scale > 1

    @property
    def high_quality(self) -> bool:
        """Whether the refiner draws the end. It was trained for the steps of the base, so presets do without it."""
        return self.request.high_quality and self.preset is None
