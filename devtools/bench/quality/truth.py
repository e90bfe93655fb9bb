"""The truth test: draw prompts with the worker's engine and the demo model, and check the pixels of the pictures.

It measures whether shape, colour and background are right; whether a negative prompt removes what it names; whether
guidance makes pictures more accurate and less varied; and whether another seed gives another correct picture.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from devtools.bench.equality.draw import WatchedModel
from devtools.bench.equality.draw import draw as draw_jobs
from devtools.bench.jobs import job_of
from devtools.demo_model.judge import Seen, look
from devtools.demo_model.scenes import COLOURS, SHAPES, SIDE_PX, Scene, full_prompt, random_scene
from worker.events.types import GenerationRequest
from worker.job import SCHEDULERS, Job

PROMPTS = 200
PASS_SHARE = 0.95
# The properties that must be right; size and frame are only reported.
MARKED = ("shape", "colour", "background")
# The values that the README of the demo model recommends.
STEPS, GUIDANCE = 20, 5.0
_NO_GUIDANCE, _MUCH_GUIDANCE = 1.0, 7.5
_LEAST_ASKED = 12
# Mean absolute difference, on a scale of 0 to 255, above which two pictures count as different.
_ANOTHER_PICTURE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The parameters of one picture."""

    prompt: str
    seed: int
    negative_prompt: str | None = None
    guidance_scale: float = GUIDANCE
    scheduler: str = SCHEDULERS[0]
    loras: tuple[tuple[str, float], ...] = ()


def draw(model: WatchedModel, wishes: Sequence[Wish]) -> list[Image.Image]:
    """Draw the pictures with the worker's engine, and return them in the order of `wishes`.

    Raises:
        RuntimeError: the engine rejected a job.
    """
    drawing = draw_jobs(model, [_job(number, wish) for number, wish in enumerate(wishes)], deterministic=True)
    if drawing.refused:
        raise RuntimeError(f"refused: {', '.join(sorted(drawing.refused))}")
    return [Image.fromarray(drawing.drawn[str(number)].pixels) for number in range(len(wishes))]


def _job(number: int, wish: Wish) -> Job:
    request = GenerationRequest(
        job_id=str(number),
        girl_id="truth",
        user_id=0,
        prompt=wish.prompt,
        negative_prompt=wish.negative_prompt,
        num_inference_steps=STEPS,
        guidance_scale=wish.guidance_scale,
        scheduler=wish.scheduler,
        width=SIDE_PX,
        height=SIDE_PX,
        seed=wish.seed,
    )
    return job_of(request, number, seed=wish.seed, loras=wish.loras)


def truth(model: WatchedModel, prompts: int = PROMPTS, seed: int = 0) -> tuple[dict[str, Any], list[Image.Image]]:
    """Run all measurements; return the report for `out/truth.json`, and the pictures of the first measurement."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(prompts)]
    asked = [full_prompt(scene) for scene in scenes]
    wishes = [Wish(prompt=prompt, seed=number) for number, prompt in enumerate(asked)]
    pictures = draw(model, wishes)
    report = mark(scenes, pictures) | {"steps": STEPS, "guidance_scale": GUIDANCE}
    few = max(_LEAST_ASKED, prompts // 8)
    report["negative_prompt"] = _negatives(model, few)
    report["guidance"] = _guidance(model, scenes[:few], wishes[:few])
    report["seeds"] = _seeds(model, scenes[:few], wishes[:few], pictures[:few])
    report["asked"] = asked
    report["passed"] = passed(report)
    return report, pictures


def passed(report: dict[str, Any]) -> bool:
    """Return whether every target is met."""
    negative, guidance, seeds = report["negative_prompt"], report["guidance"], report["seeds"]
    return bool(
        report["right_share"] >= PASS_SHARE
        and all(case["with"] <= case["without"] / 3 for case in negative.values())
        and all(case["without"] > 0 for case in negative.values())
        and guidance["right_share"][f"{_MUCH_GUIDANCE}"] >= PASS_SHARE
        and guidance["commonest_colour_share"][f"{_MUCH_GUIDANCE}"]
        > guidance["commonest_colour_share"][f"{_NO_GUIDANCE}"]
        and guidance["mean_abs_difference"] > _ANOTHER_PICTURE
        and seeds["another_picture_share"] == 1.0
        and seeds["right_share"] >= PASS_SHARE
    )


def mark(scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """Count the pictures that are right in all of `MARKED`; also the share per property, and the wrong pictures."""
    seen = [look(picture) for picture in pictures]
    marks = [one.shows(scene) for one, scene in zip(seen, scenes, strict=True)]
    right = [all(mark[name] for name in MARKED) for mark in marks]
    wrong = [
        {"prompt": full_prompt(scene), "seen": _words(one)}
        for scene, one, good in zip(scenes, seen, right, strict=True)
        if not good
    ]
    return {
        "prompts": len(scenes),
        "right": sum(right),
        "right_share": sum(right) / len(scenes),
        "share": {name: sum(mark[name] for mark in marks) / len(marks) for name in marks[0]},
        "wrong": wrong,
    }


def _words(seen: Seen) -> str:
    frame = "with a frame" if seen.framed else "no frame"
    return f"{seen.size} {seen.colour} {seen.shape or 'something'} on {seen.background}, {frame}"


def _negatives(model: WatchedModel, each: int) -> dict[str, Any]:
    """Draw prompts that omit one property, then name its most frequent value in the negative prompt.

    Returns:
        For colour, shape and frame: the named value, and the share of pictures that show it without and with the
        negative prompt.
    """
    shapes = [SHAPES[i % len(SHAPES)] for i in range(each)]
    grounds = [sorted(COLOURS)[i % len(COLOURS)] for i in range(each)]
    return {
        "colour": _removed(model, _colourless(each), _colour),
        "shape": _removed(model, [f"a big shape on a {ground} background" for ground in grounds], _shape),
        "frame": _removed(model, [f"a big {shape} on a white background" for shape in shapes], _frame),
    }


def _colourless(count: int) -> list[str]:
    """Return prompts that do not name a colour."""
    return [f"a big {SHAPES[i % len(SHAPES)]} on a black background" for i in range(count)]


def _removed(model: WatchedModel, prompts: Sequence[str], shown: Callable[[Seen], str]) -> dict[str, Any]:
    wishes = [Wish(prompt=prompt, seed=1_000 + i) for i, prompt in enumerate(prompts)]
    unwanted, count = _commonest(draw(model, wishes), shown)
    after = Counter(
        shown(look(picture)) for picture in draw(model, [replace(wish, negative_prompt=unwanted) for wish in wishes])
    )
    return {"named": unwanted, "without": count / len(prompts), "with": after[unwanted] / len(prompts)}


def _commonest(pictures: Sequence[Image.Image], shown: Callable[[Seen], str]) -> tuple[str, int]:
    """Return the most frequent value in the pictures, and its count."""
    found = Counter(shown(look(picture)) for picture in pictures)
    del found[""]
    return found.most_common(1)[0] if found else ("nothing", 0)


def _colour(seen: Seen) -> str:
    return seen.colour


def _shape(seen: Seen) -> str:
    return seen.shape


def _frame(seen: Seen) -> str:
    return "frame" if seen.framed else ""


def _guidance(model: WatchedModel, scenes: Sequence[Scene], wishes: Sequence[Wish]) -> dict[str, Any]:
    """Draw the same prompts and seeds without guidance and with strong guidance.

    Reports the shares of right pictures, the share of different pictures, and the variety of a property that prompts
    do not name, which guidance reduces (arXiv:2207.12598).
    """
    scales = _NO_GUIDANCE, _MUCH_GUIDANCE
    none, much = (draw(model, [replace(wish, guidance_scale=scale) for wish in wishes]) for scale in scales)
    open_wishes = [Wish(prompt=prompt, seed=2_000 + i) for i, prompt in enumerate(_colourless(len(wishes)))]
    return {
        "right_share": {
            str(scale): mark(scenes, pictures)["right_share"]
            for scale, pictures in zip(scales, (none, much), strict=True)
        },
        "commonest_colour_share": {
            str(scale): _commonest(draw(model, [replace(wish, guidance_scale=scale) for wish in open_wishes]), _colour)[
                1
            ]
            / len(open_wishes)
            for scale in scales
        },
        "mean_abs_difference": float(np.mean([difference(a, b) for a, b in zip(none, much, strict=True)])),
    }


def _seeds(
    model: WatchedModel, scenes: Sequence[Scene], wishes: Sequence[Wish], pictures: Iterable[Image.Image]
) -> dict[str, Any]:
    """Draw the same prompts with other seeds; report the shares of right pictures and of different pictures."""
    others = draw(model, [replace(wish, seed=wish.seed + 10_000) for wish in wishes])
    apart = [difference(a, b) for a, b in zip(pictures, others, strict=True)]
    return {
        "right_share": mark(scenes, others)["right_share"],
        "another_picture_share": float(np.mean([d > _ANOTHER_PICTURE for d in apart])),
        "mean_abs_difference": float(np.mean(apart)),
    }


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean absolute difference of two pictures, on a scale of 0 to 255."""
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())
