"""The demo's records: twelve valid requests in the three lanes, an invalid one, and one that cannot be decoded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from worker.events.types import GenerationRequest, Lora, OutputFormat, Priority

UNDECODABLE_ID = "demo-14-not-avro"
UNDECODABLE = b'{"prompt": "JSON, on a topic that carries Avro"}'


# The size that the demo model was trained on; as with any SDXL, other sizes give worse pictures.
SIDE_PX = 128


@dataclass(frozen=True, slots=True)
class _Picture:
    """One row of the table below."""

    name: str
    lane: Priority
    prompt: str
    steps: int = 20
    guidance: float = 5.0
    seed: int | None = None
    negative: str | None = None
    fmt: OutputFormat = OutputFormat.JPEG
    scheduler: str = "DPMSolverMultistepScheduler"
    high_quality: bool = False
    loras: tuple[Lora, ...] = ()


_U, _H, _N = Priority.URGENT, Priority.HIGH, Priority.NORMAL
_EULER, _ANCESTRAL, _DDIM = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler"
_MOON, _SEPIA = Lora(name="moon", weight=0.9), Lora(name="sepia", weight=0.9)

# Slow requests of the normal lane come first, to show that urgent ones still finish early.
_PICTURES = (
    _Picture("star", _N, "a big yellow star on a blue background, with a frame", 30, seed=11),
    _Picture("heart", _N, "a big red heart on a white background", 30, 7.5, 12, "frame"),
    _Picture("circle", _N, "a small black circle on a yellow background, no frame", 30, 6.0, 13),
    _Picture("cross", _N, "a big white cross on a red background", 24, seed=14, fmt=OutputFormat.WEBP),
    _Picture("triangle", _N, "a small green triangle on a black background, no frame", 24, seed=15),
    _Picture("square", _N, "a big purple square on a green background", 30, scheduler=_EULER),
    _Picture("moon", _H, "a big yellow moon on a black background, no frame", seed=17, loras=(_MOON,)),
    _Picture("old-moon", _H, "a big yellow moon on a blue background, no frame", seed=18, loras=(_MOON, _SEPIA)),
    _Picture(
        "small-heart",
        _H,
        "a small white heart on a purple background",
        24,
        seed=19,
        scheduler=_DDIM,
        fmt=OutputFormat.PNG,
    ),
    _Picture("refined", _H, "a big blue star on a white background, no frame", seed=20, high_quality=True),
    _Picture("urgent-circle", _U, "a big red circle on a white background, no frame", 12, seed=21),
    _Picture("urgent-heart", _U, "a big purple heart on a yellow background", 16, scheduler=_ANCESTRAL),
)


def good_requests(now: datetime) -> tuple[GenerationRequest, ...]:
    """Return the twelve requests that become pictures."""
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
            loras=picture.loras,
            width=SIDE_PX,
            height=SIDE_PX,
            seed=picture.seed,
            scheduler=picture.scheduler,
            output_format=picture.fmt,
            requested_at=now,
        )
        for number, picture in enumerate(_PICTURES, 1)
    )


def invalid_request(now: datetime) -> GenerationRequest:
    """Return a request that can be encoded, but is rejected by the worker."""
    return GenerationRequest(
        job_id="demo-13-zero-steps",
        girl_id="aiko",
        user_id=1_013,
        prompt="a picture in no steps at all",
        num_inference_steps=0,
        priority=Priority.HIGH,
        requested_at=now,
    )
