"""Does a trained LoRA teach? A shape and a style that the demo model never saw, marked before and after."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from worker.bench.truth import Wish, draw
from worker.engine.pipeline import SdxlModel
from worker.models.load import load_base
from worker.training.judge import look
from worker.training.lora import Recipe, train_lora
from worker.training.scenes import SHAPES, SIDE_PX, Fill, Scene, full_prompt, random_scene
from worker.training.scenes import draw as draw_scene

PICTURES = 96
PROMPTS = 24
TAUGHT_SHARE = 0.7
# In company each LoRA gives a little, as with real ones.
BOTH = (("moon", 0.9), ("outline", 0.9))
RECIPE = Recipe(
    resolution=SIDE_PX, rank=8, batch_size=8, epochs=1_000, max_steps=300, learning_rate=2e-3, convolutions=True
)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a LoRA is to teach: pictures of these shapes, so filled."""

    name: str
    shapes: tuple[str, ...]
    fill: Fill

    def scenes(self, rng: random.Random, count: int) -> list[Scene]:
        """As many scenes of it."""
        return [replace(random_scene(rng, self.shapes), fill=self.fill) for _ in range(count)]


# A circle in outline would be a ring, another shape.
LESSONS = (
    Lesson("moon", ("moon",), "solid"),
    Lesson("outline", tuple(shape for shape in SHAPES if shape != "circle"), "outline"),
)
TOGETHER = Lesson("both", ("moon",), "outline")


def write_dataset(folder: Path, lesson: Lesson, count: int = PICTURES) -> None:
    """Pictures of the lesson, each with its caption in a text file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(lesson.scenes(random.Random(lesson.name), count)):
        draw_scene(scene).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(full_prompt(scene))


def teach(
    model: Path, folder: Path, lesson: Lesson, recipe: Recipe, progress: Callable[[str, int, int, float], None]
) -> Path:
    """Train `folder/loras/NAME.safetensors` on `folder/NAME`."""
    write_dataset(folder / lesson.name, lesson)
    file = folder / "loras" / f"{lesson.name}.safetensors"
    return train_lora(
        str(model),
        folder / lesson.name,
        file,
        recipe,
        device="cpu",
        progress=lambda *done: progress(lesson.name, *done),
    )


def examine(model: Path, loras: Path, prompts: int = PROMPTS) -> tuple[dict[str, Any], list[tuple[Image.Image, str]]]:
    """The share of pictures that show each lesson, without and with its LoRA, and both LoRAs at once.

    Returns:
        The report, and for each lesson four pictures before and the same four after, with their prompts.
    """
    sdxl = SdxlModel(load_base(str(model), dtype=torch.float32, device="cpu"), lora_dir=loras)
    cases = [*[(lesson, ((lesson.name, 1.0),)) for lesson in LESSONS], (TOGETHER, BOTH)]
    report: dict[str, Any] = {"prompts": prompts}
    shown: list[tuple[Image.Image, str]] = []
    for lesson, weights in cases:
        scenes = lesson.scenes(random.Random(f"exam of {lesson.name}"), prompts)
        wishes = [Wish(prompt=full_prompt(scene), seed=number) for number, scene in enumerate(scenes)]
        before, after = draw(sdxl, wishes), draw(sdxl, [replace(wish, loras=weights) for wish in wishes])
        report[lesson.name] = {
            "loras": dict(weights),
            "before": _share(scenes, before),
            "after": _share(scenes, after),
        }
        for label, pictures in (("before", before), (f"with {lesson.name}", after)):
            shown += [(picture, f"{label}: {wish.prompt}") for picture, wish in zip(pictures[:4], wishes, strict=False)]
    report["passed"] = all(
        report[lesson.name]["after"] >= TAUGHT_SHARE and report[lesson.name]["before"] < TAUGHT_SHARE / 2
        for lesson, _ in cases
    )
    return report, shown


def _share(scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> float:
    """Of the pictures, how many show the right shape, rightly filled."""
    right = [look(picture).shows(scene)["shape"] for scene, picture in zip(scenes, pictures, strict=True)]
    return sum(right) / len(right)
