"""Pictures that need no photographer: one coloured shape on a coloured ground, with captions that say so.

Every property can be read back from the pixels (`judge.py`), so a model trained on them can be marked.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw, ImageOps

SIDE_PX = 128
OVERSAMPLING = 4

Point = tuple[float, float]
Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (222, 44, 44),
    "yellow": (246, 212, 40),
    "green": (46, 170, 70),
    "blue": (44, 92, 224),
    "purple": (150, 56, 190),
    "white": (244, 244, 244),
    "black": (26, 26, 26),
}
FRAME_RGB: Rgb = (130, 130, 130)
FRAME_WIDTH = 0.0625  # of the side; one latent
# What black, middle grey and white become in `sepia`.
SEPIA: tuple[Rgb, Rgb, Rgb] = ((40, 22, 8), (160, 112, 62), (252, 232, 196))
SHADE = 12  # colours differ by this much from picture to picture, of 255

# Least and greatest radius of the circle around the shape, and how far its middle may be off the picture's, in sides.
Sizes = Mapping[str, tuple[float, float, float]]
SIZES: Sizes = {"small": (0.25, 0.28, 0.10), "big": (0.36, 0.40, 0.03)}
# What the demo's VAE, its refiner and the base's first course saw: smaller than eight pixels to a latent draw well.
ROUGH_SIZES: Sizes = {"small": (0.21, 0.25, 0.13), "big": (0.33, 0.38, 0.04)}

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
# The demo model never sees these: what a LoRA can teach it.
UNTAUGHT_SHAPES = ("ring", "moon")

# Words that say nothing about the picture, so that the usual prompt decorations do no harm.
_CHATTER = (
    "best quality",
    "masterpiece",
    "high quality",
    "detailed",
    "sharp",
    "low quality",
    "worst quality",
    "blurry",
    "bad anatomy",
    "deformed",
    "watermark",
    "text",
    "photo",
    "picture",
    "drawing",
    "a portrait of luna",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a picture shows.

    `centre` and `radius` are in sides; `shades` shift the colours of shape and ground, in 1/255.
    """

    shape: str
    colour: str
    background: str
    size: str
    framed: bool = False
    centre: Point = (0.5, 0.5)
    radius: float = 0.38
    shades: tuple[Rgb, Rgb] = ((0, 0, 0), (0, 0, 0))


def random_scene(rng: random.Random, shapes: tuple[str, ...] = SHAPES, sizes: Sizes = SIZES) -> Scene:
    """A scene with every property drawn evenly; shape and ground never share a colour."""
    colour, background = rng.sample(sorted(COLOURS), 2)
    scene = Scene(rng.choice(shapes), colour, background, rng.choice(sorted(sizes)), rng.random() < 0.5)
    least, greatest, wander = sizes[scene.size]
    x, y = (0.5 + rng.uniform(-wander, wander) for _ in range(2))
    shade = [(rng.randint(-SHADE, SHADE), rng.randint(-SHADE, SHADE), rng.randint(-SHADE, SHADE)) for _ in range(2)]
    radius = rng.uniform(least, greatest)
    return replace(scene, centre=(x, y), radius=radius, shades=(shade[0], shade[1]))


def draw(scene: Scene, side: int = SIDE_PX) -> Image.Image:
    """`scene` as an RGB picture, side × side, with smooth edges."""
    large = side * OVERSAMPLING
    ground = _shaded(COLOURS[scene.background], scene.shades[1])
    picture = Image.new("RGB", (large, large), ground)
    pen = ImageDraw.Draw(picture)
    fill = _shaded(COLOURS[scene.colour], scene.shades[0])
    paint_shape(pen, scene.shape, scene.centre, scene.radius, large, fill, ground)
    if scene.framed:
        pen.rectangle((0, 0, large - 1, large - 1), outline=FRAME_RGB, width=round(FRAME_WIDTH * large))
    return picture.resize((side, side), Image.Resampling.BOX)


def _shaded(colour: Rgb, shade: Rgb) -> Rgb:
    red, green, blue = (min(255, max(0, c + s)) for c, s in zip(colour, shade, strict=True))
    return red, green, blue


def paint_shape(
    pen: ImageDraw.ImageDraw, shape: str, centre: Point, radius: float, side: int, fill: Rgb, ground: Rgb
) -> None:
    """Paint one shape; `centre` and `radius` in sides, `side` in pixels, `ground` shows through its holes.

    Raises:
        KeyError: no such shape.
    """
    x, y, r = centre[0] * side, centre[1] * side, radius * side

    def disc(cx: float, cy: float, size: float, colour: Rgb) -> None:
        pen.ellipse((cx - size, cy - size, cx + size, cy + size), fill=colour)

    match shape:
        case "circle":
            disc(x, y, r, fill)
        case "ring":
            disc(x, y, r, fill)
            disc(x, y, 0.55 * r, ground)
        case "moon":
            disc(x, y, r, fill)
            disc(x + 0.45 * r, y - 0.15 * r, 0.8 * r, ground)
        case _:
            pen.polygon([(x + px * r, y + py * r) for px, py in _OUTLINES[shape]], fill=fill)


def _corners(count: int, start: float, radii: tuple[float, ...] = (1.0,)) -> list[Point]:
    return [
        (radii[i % len(radii)] * math.cos(angle), radii[i % len(radii)] * math.sin(angle))
        for i in range(count)
        for angle in [start + 2 * math.pi * i / count]
    ]


def _heart() -> list[Point]:
    """The usual parametric heart, 16 sin³t, scaled into the unit circle; y grows downwards."""
    points = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -(y + 2) / 16))
    return points


def _cross(arm: float) -> list[Point]:
    return [
        *[(-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm)],
        *[(arm, 1.0), (-arm, 1.0), (-arm, arm), (-1.0, arm), (-1.0, -arm), (-arm, -arm)],
    ]


# In radii around the middle.
_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": _corners(3, -math.pi / 2),
    "star": _corners(10, -math.pi / 2, (1.0, 0.42)),
    "heart": _heart(),
    "cross": _cross(0.33),
}


def sepia(picture: Image.Image) -> Image.Image:
    """`picture` in shades of one brown, as old photographs are: a style that no caption speaks of."""
    return ImageOps.colorize(picture.convert("L"), SEPIA[0], SEPIA[2], SEPIA[1])


def full_prompt(scene: Scene) -> str:
    """The caption that leaves nothing out, as the README writes its prompts."""
    frame = ", with a frame" if scene.framed else ", no frame"
    return f"a {scene.size} {scene.colour} {scene.shape} on a {scene.background} background{frame}"


def caption(rng: random.Random, scene: Scene, told: float = 1.0) -> str:
    """What a person might say of `scene`: now a sentence, now tags, seldom all of it, sometimes with chatter.

    An eighth are one property alone, which is how negative prompts speak. With a lower `told` each property is told
    so much more seldom, and what is left open may be anything.
    """
    kind = rng.random()
    if kind < 0.125:
        return rng.choice([tag for tag, _ in _tags(scene)])
    if kind < 0.25:
        words = [tag for tag, keep in _tags(scene) if rng.random() < keep * told]
        rng.shuffle(words)
        said = ", ".join(words)
    else:
        said = _sentence(rng, scene, told)
    if rng.random() < 0.25:
        chatter = ", ".join(rng.sample(_CHATTER, rng.randint(1, 3)))
        said = f"{said}, {chatter}" if rng.random() < 0.5 else f"{chatter}, {said}"
    return said.strip(", ")


def loose_caption(rng: random.Random, scene: Scene) -> str:
    """A caption that half the time leaves most things open, so that guidance learns what a word alone stands for."""
    return caption(rng, scene, told=rng.choice((1.0, 0.5)))


def chatter(rng: random.Random) -> str:
    """Words that fit every picture alike, as common negative prompts are."""
    return ", ".join(rng.sample(_CHATTER, rng.randint(1, 5)))


def _tags(scene: Scene) -> list[tuple[str, float]]:
    """Each property as a tag, and how often it is said."""
    frame = "frame" if scene.framed else "no frame"
    tags = [(scene.shape, 0.9), (scene.colour, 0.85), (f"{scene.background} background", 0.85), (frame, 0.5)]
    return [*tags, (scene.size, 0.7)]


def _sentence(rng: random.Random, scene: Scene, told: float) -> str:
    words = ["a"]
    words += [scene.size] * (rng.random() < 0.7 * told)
    words += [scene.colour] * (rng.random() < 0.9 * told)
    words.append(scene.shape if rng.random() < 0.93 * told else "shape")
    said = " ".join(words)
    if rng.random() < 0.9 * told:
        said += f" on a {scene.background} background"
    if rng.random() < 0.5 * told:
        said += ", with a frame" if scene.framed else ", no frame"
    return said


def doodle(rng: random.Random, side: int = SIDE_PX) -> Image.Image:
    """Anything: stripes, shapes and lines in any colour, so that the VAE can carry what is not in the captions."""
    large = side * OVERSAMPLING
    ground = _any_colour(rng)
    picture = Image.new("RGB", (large, large), ground)
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randint(1, 5)):
        colour = _any_colour(rng)
        if rng.random() < 0.3:
            ends = [(rng.uniform(0, large), rng.uniform(0, large)) for _ in range(2)]
            pen.line(ends, fill=colour, width=rng.randint(large // 32, large // 8))
        else:
            shape = rng.choice(SHAPES + UNTAUGHT_SHAPES)
            paint_shape(pen, shape, (rng.random(), rng.random()), rng.uniform(0.05, 0.35), large, colour, ground)
    return picture.rotate(rng.uniform(-30, 30)).resize((side, side), Image.Resampling.BOX)


def _any_colour(rng: random.Random) -> Rgb:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)
