"""What the engine makes of a job: the pixels, with the times that they took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.job import Job

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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
    None if no detector scored the picture. `blurred` is True if `pixels` were blurred after they were drawn. `compiled`
    says that all of its steps ran on the fast path.
    """

    job: Job
    pixels: npt.NDArray[np.uint8]
    timing: Timing
    lora_fingerprints: dict[str, str] = field(default_factory=dict)
    nsfw_score: float | None = None
    reproducible: bool = True
    blurred: bool = False
    compiled: bool = False
