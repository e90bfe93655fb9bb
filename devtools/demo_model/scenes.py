"""Generated training pictures: one coloured shape on a coloured background, with captions that describe it.

Every property can be recognised from the pixels (`judge.py`), so the pictures of a trained model can be scored.
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
# The colours that black, middle grey and white become in `sepia`.
SEPIA: tuple[Rgb, Rgb, Rgb] = ((40, 22, 8), (160, 112, 62), (252, 232, 196))
SHADE = 12  # colours differ by this much from picture to picture, of 255

# Smallest and largest radius of the circle around the shape, and largest offset of its centre, in units of the side.
Sizes = Mapping[str, tuple[float, float, float]]
SIZES: Sizes = {"small": (0.25, 0.28, 0.10), "big": (0.36, 0.40, 0.03)}
# Sizes for training the VAE, the refiner and the base's first stage; they include shapes too small to be drawn well at
# eight pixels per latent.
ROUGH_SIZES: Sizes = {"small": (0.21, 0.25, 0.13), "big": (0.33, 0.38, 0.04)}

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
# The demo model is not trained on these shapes, so that a LoRA can teach them.
UNTAUGHT_SHAPES = ("ring", "moon")

# Phrases that do not describe the picture; training on them makes the usual prompt decorations harmless.
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
    """All properties of a picture.

    `centre` and `radius` are in units of the side; `shades` shift the colours of shape and background, in 1/255.
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
    """Return a random scene with uniformly drawn properties; shape and background have different colours."""
    colour, background = rng.sample(sorted(COLOURS), 2)
    scene = Scene(rng.choice(shapes), colour, background, rng.choice(sorted(sizes)), rng.random() < 0.5)
    least, greatest, wander = sizes[scene.size]
    x, y = (0.5 + rng.uniform(-wander, wander) for _ in range(2))
    shade = [(rng.randint(-SHADE, SHADE), rng.randint(-SHADE, SHADE), rng.randint(-SHADE, SHADE)) for _ in range(2)]
    radius = rng.uniform(least, greatest)
    return replace(scene, centre=(x, y), radius=radius, shades=(shade[0], shade[1]))


def draw(scene: Scene, side: int = SIDE_PX) -> Image.Image:
    """Draw a scene as an RGB picture of side × side pixels, with smooth edges."""
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
    """Paint one shape.

    `centre` and `radius` are in units of the side, `side` is in pixels, and `ground` is the colour of its holes.

    Raises:
        KeyError: the shape is unknown.
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
    """Return the outline of the usual parametric heart, 16 sin³t, scaled into the unit circle; y grows downwards."""
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


# Outlines of the shapes around their centre, in units of the radius.
_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": _corners(3, -math.pi / 2),
    "star": _corners(10, -math.pi / 2, (1.0, 0.42)),
    "heart": _heart(),
    "cross": _cross(0.33),
}


def sepia(picture: Image.Image) -> Image.Image:
    """Convert a picture to shades of brown, like an old photograph; no caption mentions this style."""
    return ImageOps.colorize(picture.convert("L"), SEPIA[0], SEPIA[2], SEPIA[1])


def full_prompt(scene: Scene) -> str:
    """Return a caption with all properties, in the form of the README's prompts."""
    frame = ", with a frame" if scene.framed else ", no frame"
    return f"a {scene.size} {scene.colour} {scene.shape} on a {scene.background} background{frame}"


def caption(rng: random.Random, scene: Scene, told: float = 1.0) -> str:
    """Return a random caption: a sentence or tags, usually with some of the properties, sometimes with other phrases.

    One eighth of the captions name a single property, as negative prompts do. `told` scales the probability that a
    property is mentioned.
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
    """Return a caption that omits most properties half of the time, so that the model learns each word separately."""
    return caption(rng, scene, told=rng.choice((1.0, 0.5)))


def chatter(rng: random.Random) -> str:
    """Return phrases that fit any picture, like common negative prompts."""
    return ", ".join(rng.sample(_CHATTER, rng.randint(1, 5)))


def _tags(scene: Scene) -> list[tuple[str, float]]:
    """Return each property as a tag, with the probability that it is mentioned."""
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
    """Draw random stripes, shapes and lines in any colour, so that the VAE can represent more than the scenes."""
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
