"""Types that all packages share: a job, the record it came from, and its result."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from worker.errors import ErrorCode
from worker.presets import Preset
from worker.prompt_syntax import PromptSyntax

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from worker.events.types import Event, GenerationRequest


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A validated request with all defaults resolved. Times are seconds since the epoch.

    `seed` is what counts of the request's (`effective_seed`), or derived from `job_id`. `prompt` and `negative_prompt`
    include those of the profile; `prompt_syntax` says how their signs are read. `loras` holds (name, weight), including
    those of the profile, of the preset and the default one. `recorded_at` is the time of the record, None where that is
    unknown. `headers` are passed through to the results. `checkpoint` is the state that another worker saved of this
    job (`engine/checkpoint.py`). `call_samples` is set where a stored picture is made again: the samples of the UNet
    calls that it was drawn with, in place of the worker's own (`call_sizes.py`). `preset` replaces what the request
    says about sampling, so read that from the properties below, never from `request`.
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


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of one picture in seconds; `started_at` is in seconds since the epoch.

    `queue` is the time from the request to the start of the work, `generation` from there to the pixels, including
    time in which the job was parked. `gpu` is the job's share of device time. `encode_text` (at the beginning) and
    `decode` (at the end) are parts of `generation`.
    """

    queue: float
    generation: float
    gpu: float
    started_at: float
    encode_text: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture: `pixels` is (height, width, 3) RGB uint8 on the host.

    `lora_fingerprints` are SHA-256 prefixes of the LoRA files that were used, by name. `reproducible` is False if the
    device ran out of memory and batches were made smaller or work was sliced, which may change bits. `nsfw_score` is
    None if no detector scored the picture. `blurred` is True if `pixels` were blurred after they were drawn.
    """

    job: Job
    pixels: npt.NDArray[np.uint8]
    timing: Timing
    lora_fingerprints: dict[str, str] = field(default_factory=dict)
    nsfw_score: float | None = None
    reproducible: bool = True
    blurred: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that ended without a picture; `message` is one sentence that says what to do about it."""

    request: GenerationRequest
    lane: Lane
    origin: Origin
    code: ErrorCode
    message: str
    requested_at: float
    attempt: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    replay_id: str | None = None
    preset: Preset | None = None

    @property
    def num_inference_steps(self) -> int:
        return self.request.num_inference_steps if self.preset is None else self.preset.num_inference_steps

    @classmethod
    def of(cls, job: Job, code: ErrorCode, message: str) -> Failure:
        """Build the failure of an admitted job."""
        return cls(
            request=job.request,
            lane=job.lane,
            origin=job.origin,
            code=code,
            message=message,
            requested_at=job.requested_at,
            attempt=job.attempt,
            headers=job.headers,
            replay_id=job.replay_id,
            preset=job.preset,
        )


@dataclass(frozen=True, slots=True)
class Original:
    """The original content of a record, for the dead-letter topic; `written_at` is in epoch seconds, where known."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, str | bytes | None]] | None
    written_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One record to produce; `value` is an event to encode, or bytes that are produced unchanged.

    Args:
        partition: the key decides, where it is None.
        written_at: its timestamp in epoch seconds; that of the moment, where it is None.
    """

    topic: str
    key: bytes | None
    value: Event | bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None
    written_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The messages that end the record at `origin`; with exactly-once delivery, its offset is in their transaction.

    Args:
        messages: the result first; the others (status) may be left out where they cannot be written.
        smallest: replaces all of them where the brokers find the result too large.
    """

    origin: Origin
    messages: tuple[Message, ...]
    urgent: bool = False
    smallest: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A progress message; it is sent only while the partition of `origin` is assigned and the record unfinished."""

    origin: Origin
    message: Message


# By lane: how many rows of this lane and the more urgent ones an engine has a use for, those that it has included.
Room = tuple[int, int, int]


def _ignore(*_: object) -> None:
    """The default of hooks that nobody listens to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHooks:
    """Callbacks of the engine; they are called on the engine's thread, so none of them may block.

    Args:
        on_progress: gets the job, its steps done and its steps in all.
        on_pixels: gets the finished picture.
        on_failed: gets a job that ended without one.
        on_released: gets a job that left without an outcome, with a checkpoint where one could be made.
        on_room: gets the engine's room at every tick; a job has left it when its pixels are there, or as it fails.
    """

    on_progress: Callable[[Job, int, int], None] = _ignore
    on_pixels: Callable[[Picture], None]
    on_failed: Callable[[Failure], None]
    on_released: Callable[[Job], None] = _ignore
    on_room: Callable[[Room], None] = _ignore


class Engine(Protocol):
    """What makes pictures. `tick`, `wait` and `report` belong to one thread; any thread may call the others."""

    def submit(self, job: Job) -> None:
        """Hand over a job whose start is durable."""

    def cancel(self, job_id: str, code: ErrorCode, message: str) -> None:
        """Fail a job before its next step; an unknown id is ignored."""

    def release(self, keep: Callable[[Origin], bool], *, started: bool) -> None:
        """Release jobs whose origin is not to be kept: those that have not started, or with `started` all of them."""

    def tick(self) -> bool:
        """Do one piece of work; False when there was nothing to do."""

    def wait(self, timeout_s: float) -> None:
        """Sleep until there is something to do, at most `timeout_s`."""

    def report(self, queued: Sequence[Job]) -> None:
        """Set the gauges of the engine and of the jobs that wait for their start."""


MakeEngine = Callable[[EngineHooks], Engine]
