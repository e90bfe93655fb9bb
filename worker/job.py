"""The words that the rooms share: a job, where it came from, and how it ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from worker.errors import ErrorCode

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from worker.events.types import Event, GenerationRequest


# Ids become object keys, and names of LoRAs and profiles files: none of them leaves its folder.
SAFE_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}", re.ASCII)

# The schedulers offered, by diffusers' class names; the first is the default (DPM++ 2M Karras).
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
)


# torch's CPU generator, from which all noise is drawn, looks at the low 32 bits of a seed.
SEED_MODULUS = 2**32


def effective_seed(seed: int) -> int:
    """What counts of a seed: 7 and 7 + 2^32 give the same noise on the CPU, and would not on a CUDA generator."""
    return seed % SEED_MODULUS


class Lane(IntEnum):
    """How urgent a request is. The topic that it arrives on decides, and the lowest value goes first."""

    URGENT = 0
    HIGH = 1
    NORMAL = 2

    @property
    def label(self) -> str:
        """The name in topics, headers and metric labels."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Origin:
    """The record that a job came from.

    `epoch` counts the assignments of this partition to this process: a result
    whose epoch is no longer current is not published (KAFKA-19779).
    """

    topic: str
    partition: int
    offset: int
    epoch: int


@dataclass(frozen=True, slots=True)
class AppliedProfile:
    """The profile that a prompt was composed with; `fingerprint` is of its text then."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A validated request with every open choice made. Times are seconds since the epoch.

    `seed` is what counts of the request's own (`effective_seed`), or derived from `job_id`; `prompt` and
    `negative_prompt` are composed with the profile's; `loras` holds (name, weight) with the profile's and the default
    LoRA filled in; `recorded_at` is the time of the record, None where that is unknown; `headers` holds what is passed
    through to results; `checkpoint` is what another worker had of it (`engine/checkpoint.py`).
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
    checkpoint: bytes | None = field(default=None, repr=False)

    @property
    def job_id(self) -> str:
        return self.request.job_id


@dataclass(frozen=True, slots=True)
class Timing:
    """What one picture took, in seconds.

    `queue` runs from the request to the first step, `generation` from there to the
    pixels, parked time included; `gpu` is this job's share of the device's time. The text encoders ran for
    `encode_text` at its beginning, the VAE for `decode` at its end.
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

    `lora_fingerprints` are SHA-256 prefixes of the LoRA files that were used, by name; `reproducible` is False
    where the device ran short of memory, so that batches were smaller or work was sliced: other kernels, other bits.
    `nsfw_score` is None where no detector looked at it; `blurred` says that `pixels` are not as they were drawn.
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
    """A request that ended without a picture; `message` is one sentence to act on."""

    request: GenerationRequest
    lane: Lane
    origin: Origin
    code: ErrorCode
    message: str
    requested_at: float
    attempt: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    replay_id: str | None = None

    @classmethod
    def of(cls, job: Job, code: ErrorCode, message: str) -> Failure:
        """The failure of an admitted job."""
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
        )


@dataclass(frozen=True, slots=True)
class Original:
    """A record as it came, for the dead-letter topic."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, str | bytes | None]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One record to produce: `value` is an event to encode, or bytes to pass on unchanged."""

    topic: str
    key: bytes | None
    value: Event | bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes durable together when the record at `origin` is finished."""

    origin: Origin
    messages: tuple[Message, ...]
    urgent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Word of progress: sent while the record at `origin` is ours and unfinished, else dropped."""

    origin: Origin
    message: Message


def _ignore(*_: object) -> None:
    """The default of hooks that nobody listens to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHooks:
    """What the engine calls when something has happened to a job; on its own thread, so no hook may block.

    Args:
        on_progress: gets the job, its steps done and its steps in all.
        on_pixels: gets the finished picture.
        on_failed: gets a job that ended without one.
        on_released: gets a job that left without an outcome, with a checkpoint where one could be made.
    """

    on_progress: Callable[[Job, int, int], None] = _ignore
    on_pixels: Callable[[Picture], None]
    on_failed: Callable[[Failure], None]
    on_released: Callable[[Job], None] = _ignore


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

    def report(self) -> None:
        """Set the engine's gauges."""


MakeEngine = Callable[[EngineHooks], Engine]
