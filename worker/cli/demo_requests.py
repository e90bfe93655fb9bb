"""What the demo sends: twelve good requests over the three lanes, an invalid one, and bytes that are none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from worker.events.types import GenerationRequest, OutputFormat, Priority

UNDECODABLE_ID = "demo-14-not-avro"
UNDECODABLE = b'{"prompt": "JSON, on a topic that carries Avro"}'


@dataclass(frozen=True, slots=True)
class _Picture:
    """One row of the table below."""

    name: str
    lane: Priority
    prompt: str
    size: tuple[int, int]
    steps: int
    guidance: float = 7.5
    seed: int | None = None
    negative: str | None = None
    fmt: OutputFormat = OutputFormat.JPEG
    scheduler: str = "DPMSolverMultistepScheduler"
    high_quality: bool = False


_U, _H, _N = Priority.URGENT, Priority.HIGH, Priority.NORMAL
_EULER, _ANCESTRAL, _DDIM = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler"

# The slow and unimportant first: that the urgent ones still come out early is the point.
_PICTURES = (
    _Picture("lighthouse", _N, "a lighthouse in a storm, oil painting", (256, 256), 30, seed=11),
    _Picture("library", _N, "an endless library, warm light, dust in the air", (320, 192), 16, 6.0, 12),
    _Picture("fox", _N, "a fox asleep in autumn leaves, macro photo", (256, 256), 18, 8.5, 13, "blurry, text"),
    _Picture("harbour", _N, "a harbour at dawn, watercolour", (320, 192), 14, 5.0, 14, fmt=OutputFormat.WEBP),
    _Picture("orchid", _N, "an orchid on black velvet, studio light", (192, 256), 12, 9.0, 15),
    _Picture("station", _N, "a railway station in the snow, film grain", (256, 256), 20, scheduler=_EULER),
    _Picture("desert", _H, "a desert of blue glass under two moons", (320, 192), 12, 7.0, 17),
    _Picture("owl", _H, "portrait of an owl, ink on paper", (192, 256), 14, 4.0, 18, fmt=OutputFormat.PNG),
    _Picture("garden", _H, "a walled garden after rain", (256, 256), 10, 7.5, 19, scheduler=_DDIM),
    _Picture("temple", _H, "a temple in the clouds, high detail", (256, 256), 16, 6.5, 20, high_quality=True),
    _Picture("comet", _U, "a comet over a fishing village, long exposure", (256, 256), 8, 7.5, 21),
    _Picture("tram", _U, "a yellow tram on a steep street", (192, 256), 6, 7.5, 22, scheduler=_ANCESTRAL),
)


def good_requests(now: datetime) -> tuple[GenerationRequest, ...]:
    """The twelve that become pictures."""
    return tuple(
        GenerationRequest(
            job_id=f"demo-{number:02d}-{picture.name}",
            girl_id=("aiko", "luna", "mira")[number % 3],
            user_id=1_000 + number,
            prompt=picture.prompt,
            negative_prompt=picture.negative,
            num_inference_steps=picture.steps,
            guidance_scale=picture.guidance,
            high_quality=picture.high_quality,
            priority=picture.lane,
            width=picture.size[0],
            height=picture.size[1],
            seed=picture.seed,
            scheduler=picture.scheduler,
            output_format=picture.fmt,
            requested_at=now,
        )
        for number, picture in enumerate(_PICTURES, 1)
    )


def invalid_request(now: datetime) -> GenerationRequest:
    """One that Avro carries and the worker refuses."""
    return GenerationRequest(
        job_id="demo-13-zero-steps",
        girl_id="aiko",
        user_id=1_013,
        prompt="a picture in no steps at all",
        num_inference_steps=0,
        priority=Priority.HIGH,
        requested_at=now,
    )
