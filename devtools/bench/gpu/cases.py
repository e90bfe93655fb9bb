"""What is drawn: pictures of some sizes and numbers of steps, with LoRAs or the refiner. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from devtools.bench.jobs import job_of
from worker.events.types import GenerationRequest
from worker.job import Job, Lane

# The names of the two LoRAs, and their weight.
LORAS = ("first", "second")
LORA_WEIGHT = 0.8
GUIDANCE = 7.5
NEGATIVE = "blurry"
SEED = 7


@dataclass(frozen=True, slots=True)
class Kind:
    """What a picture is drawn with, besides the base: the refiner, or the first `loras` of `LORAS`."""

    name: str
    loras: int = 0
    refined: bool = False


PLAIN = Kind("base")
KINDS = (PLAIN, Kind("refiner", refined=True), Kind("1 LoRA", loras=1), Kind("2 LoRAs", loras=2))


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of picture of `side_px` × `side_px` in `steps` steps, guided."""

    side_px: int
    steps: int
    kind: Kind = PLAIN

    @property
    def name(self) -> str:
        return f"{self.side_px}², {self.steps} steps, {self.kind.name}"


def cases(kinds: Sequence[Kind], sides: Sequence[int], steps: Sequence[int]) -> list[Case]:
    """Return every combination; those of a kind stand together, since diffusers' pipelines are built for a kind."""
    return [Case(side, count, kind) for kind in kinds for side in sides for count in steps]


def prompts(seed: int) -> Iterator[str]:
    """Yield prompts of equal length that never repeat, so that no side can reuse a prompt's encoding."""
    number = seed
    while True:
        yield f"a lighthouse on a cliff in a storm, oil painting, study {number:06d}"
        number += 1


def job_for(case: Case, prompt: str, index: int, *, lane: Lane = Lane.NORMAL, at: float = 0.0) -> Job:
    """Return the job with number `index` that draws `prompt` as the case says."""
    request = GenerationRequest(
        job_id=f"bench-{index}",
        girl_id="bench",
        user_id=0,
        prompt=prompt,
        negative_prompt=NEGATIVE,
        width=case.side_px,
        height=case.side_px,
        num_inference_steps=case.steps,
        guidance_scale=GUIDANCE,
        high_quality=case.kind.refined,
    )
    loras = tuple((name, LORA_WEIGHT) for name in LORAS[: case.kind.loras])
    return job_of(request, index, seed=SEED, lane=lane, loras=loras, at=at)
