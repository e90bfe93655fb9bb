"""The training pictures of the demo model, and the judge that recognises them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from devtools.demo_model.judge import is_sepia, look
from devtools.demo_model.scenes import (
    COLOURS,
    SHAPES,
    SIDE_PX,
    UNTAUGHT_SHAPES,
    Scene,
    caption,
    draw,
    full_prompt,
    loose_caption,
    random_scene,
    sepia,
)

RIGHT = {"shape": True, "colour": True, "background": True, "frame": True}


def marks(scene: Scene, picture: Image.Image) -> dict[str, bool]:
    return {name: mark for name, mark in look(picture).shows(scene).items() if name != "size"}


def test_the_judge_reads_every_scene_back() -> None:
    rng = random.Random(0)
    scenes = [random_scene(rng, SHAPES + UNTAUGHT_SHAPES) for _ in range(300)]
    assert {(scene.shape, scene.size) for scene in scenes} == {
        (shape, size) for shape in SHAPES + UNTAUGHT_SHAPES for size in ("small", "big")
    }
    for scene in scenes:
        assert marks(scene, draw(scene)) == RIGHT, scene
    sizes = [look(draw(scene)).size == scene.size for scene in scenes]
    assert np.mean(sizes) > 0.98, "a radius on the border may be read either way, no other"


def test_the_judge_reads_soft_edges() -> None:
    rng = random.Random(1)
    for _ in range(100):
        scene = random_scene(rng)
        assert marks(scene, draw(scene).filter(ImageFilter.GaussianBlur(2))) == RIGHT, scene


def test_the_judge_tells_sepia_from_colours_and_from_grey() -> None:
    rng = random.Random(3)
    for _ in range(50):
        picture = draw(random_scene(rng))
        assert is_sepia(sepia(picture))
        assert is_sepia(sepia(picture).filter(ImageFilter.GaussianBlur(2)))
        assert not is_sepia(picture)
        assert not is_sepia(picture.convert("L").convert("RGB"))


ASKED = Scene("star", "red", "white", "big")


@pytest.mark.parametrize(
    ("drawn", "wrong"),
    [
        (replace(ASKED, shape="heart"), "shape"),
        (replace(ASKED, colour="blue"), "colour"),
        (replace(ASKED, background="green"), "background"),
        (replace(ASKED, size="small", radius=0.26), "size"),
        (replace(ASKED, framed=True), "frame"),
    ],
)
def test_the_judge_finds_the_one_thing_that_is_wrong(drawn: Scene, wrong: str) -> None:
    assert [name for name, right in look(draw(drawn)).shows(ASKED).items() if not right] == [wrong]


def test_noise_and_an_empty_picture_show_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    assert look(Image.fromarray(noise)).shape == ""
    empty = look(Image.new("RGB", (SIDE_PX, SIDE_PX), COLOURS["blue"]))
    assert (empty.shape, empty.colour, empty.background) == ("", "", "blue")


def test_the_same_seed_draws_and_says_the_same() -> None:
    one, other = random.Random(7), random.Random(7)
    for _ in range(20):
        scene = random_scene(one)
        assert scene == random_scene(other)
        assert caption(one, scene) == caption(other, scene)
        assert draw(scene).tobytes() == draw(scene).tobytes()


@pytest.mark.parametrize("speak", [caption, loose_caption])
def test_captions_say_nothing_that_is_not_so(speak: Callable[[random.Random, Scene], str]) -> None:
    rng = random.Random(2)
    said_frame = 0
    for _ in range(500):
        scene = random_scene(rng)
        words = speak(rng, scene).replace(",", " ").split()
        assert not {*SHAPES, *UNTAUGHT_SHAPES} & set(words) - {scene.shape}
        assert not set(COLOURS) & set(words) - {scene.colour, scene.background}
        if "frame" in words:
            said_frame += 1
            assert ("no" in words) != scene.framed
    assert 100 < said_frame < 400


def test_loose_captions_leave_more_open() -> None:
    def named(speak: Callable[[random.Random, Scene], str]) -> float:
        rng = random.Random(3)
        scenes = [random_scene(rng) for _ in range(400)]
        return sum(scene.shape in speak(rng, scene) for scene in scenes) / len(scenes)

    assert named(caption) > 0.75
    assert 0.4 < named(loose_caption) < 0.65


def test_the_full_prompt_names_every_property() -> None:
    scene = Scene("moon", "red", "white", "big", framed=True)
    assert full_prompt(scene) == "a big red moon on a white background, with a frame"
