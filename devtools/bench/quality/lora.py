"""The LoRA test: train LoRAs for a shape and a style that the demo model does not know, and measure both in pixels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from devtools.bench.equality.draw import WatchedModel
from devtools.bench.quality.truth import Wish, draw
from devtools.demo_model.judge import is_sepia, look
from devtools.demo_model.scenes import COLOURS, SHAPES, SIDE_PX, SIZES, Scene, Sizes, full_prompt, random_scene, sepia
from devtools.demo_model.scenes import draw as draw_scene
from worker.models.load import load_base
from worker.training.lora import Recipe, train_lora
from worker.training.progress import Progress

PICTURES = 96
PROMPTS = 24
TAUGHT_SHARE = 0.7
# Used together, each LoRA has a weaker effect, as with real ones.
BOTH = (("moon", 0.9), ("sepia", 0.9))
RECIPE = Recipe(
    resolution=SIDE_PX, rank=8, batch_size=8, epochs=1_000, max_steps=400, learning_rate=2e-3, convolutions=True
)
# Only big shapes are scored: the test is about the lesson, not about how small the model can draw.
_BIG: Sizes = {"big": SIZES["big"]}
# Least difference in lightness, on a scale of 0 to 255, between shape and background; browns differ in nothing else.
_LIGHTNESS_APART = 70


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a LoRA is trained on: pictures of these shapes, in their colours or in sepia."""

    name: str
    shapes: tuple[str, ...]
    in_sepia: bool

    def scenes(self, rng: random.Random, count: int, sizes: Sizes = SIZES) -> list[Scene]:
        """Return `count` random scenes for this lesson."""
        scenes = (random_scene(rng, self.shapes, sizes) for _ in iter(int, 1))
        return list(islice((scene for scene in scenes if not self.in_sepia or _in_contrast(scene)), count))

    def draw(self, scene: Scene) -> Image.Image:
        """Draw a scene as a training picture."""
        return sepia(draw_scene(scene)) if self.in_sepia else draw_scene(scene)

    def is_shown(self, scene: Scene, picture: Image.Image) -> bool:
        """Return whether the picture has the right shape in the right style."""
        return look(picture).shape == scene.shape and is_sepia(picture) == self.in_sepia


def _in_contrast(scene: Scene) -> bool:
    one, other = (Image.new("RGB", (1, 1), COLOURS[name]).convert("L") for name in (scene.colour, scene.background))
    return abs(one.tobytes()[0] - other.tobytes()[0]) > _LIGHTNESS_APART


LESSONS = (Lesson("moon", ("moon",), in_sepia=False), Lesson("sepia", SHAPES, in_sepia=True))
TOGETHER = Lesson("both", ("moon",), in_sepia=True)


def write_dataset(folder: Path, lesson: Lesson, count: int = PICTURES) -> None:
    """Write training pictures for a lesson, each with its caption in a text file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(lesson.scenes(random.Random(lesson.name), count)):
        lesson.draw(scene).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(full_prompt(scene))


def teach(model: Path, folder: Path, lesson: Lesson, recipe: Recipe, progress: Progress) -> Path:
    """Write the dataset `folder/NAME`, and train `folder/loras/NAME.safetensors` on it."""
    write_dataset(folder / lesson.name, lesson)
    file = folder / "loras" / f"{lesson.name}.safetensors"
    return train_lora(
        str(model),
        folder / lesson.name,
        file,
        recipe,
        device="cpu",
        progress=partial(progress, lesson.name),
    )


def examine(model: Path, loras: Path, prompts: int = PROMPTS) -> tuple[dict[str, Any], list[tuple[Image.Image, str]]]:
    """Measure the share of pictures that show each lesson without LoRAs, with its LoRA, and with both LoRAs.

    Returns:
        The report, and for each lesson four pictures without its LoRA and the same four with it, with their prompts.
    """
    sdxl = WatchedModel(load_base(str(model), dtype=torch.float32, device="cpu"), lora_dir=loras)
    cases = [*[(lesson, ((lesson.name, 1.0),)) for lesson in LESSONS], (TOGETHER, BOTH)]
    report: dict[str, Any] = {"prompts": prompts}
    shown: list[tuple[Image.Image, str]] = []
    for lesson, weights in cases:
        scenes = lesson.scenes(random.Random(f"exam of {lesson.name}"), prompts, _BIG)
        wishes = [Wish(prompt=full_prompt(scene), seed=number) for number, scene in enumerate(scenes)]
        before, after = draw(sdxl, wishes), draw(sdxl, [replace(wish, loras=weights) for wish in wishes])
        report[lesson.name] = {
            "loras": dict(weights),
            "before": _share(lesson, scenes, before),
            "after": _share(lesson, scenes, after),
        }
        for label, pictures in (("before", before), (f"with {lesson.name}", after)):
            shown += [(picture, f"{label}: {wish.prompt}") for picture, wish in zip(pictures[:4], wishes, strict=False)]
    report["passed"] = all(
        report[lesson.name]["after"] >= TAUGHT_SHARE and report[lesson.name]["before"] < TAUGHT_SHARE / 2
        for lesson, _ in cases
    )
    return report, shown


def _share(lesson: Lesson, scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> float:
    right = [lesson.is_shown(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)]
    return sum(right) / len(right)
