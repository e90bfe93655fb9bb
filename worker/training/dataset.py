"""Read a folder of captioned pictures for LoRA training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_METADATA = "metadata.jsonl"


class TrainingError(Exception):
    """Training cannot start; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Example:
    """One picture and its caption."""

    path: Path
    caption: str

    def square(self, side: int) -> tuple[Image.Image, tuple[int, ...]]:
        """Load the picture, rotate it upright, scale its shorter side to `side` pixels and crop it at the centre.

        Returns:
            An RGB picture of side × side pixels, and SDXL's time ids: original size, top and left of the crop,
            target size.

        Raises:
            TrainingError: the file cannot be read as a picture.
        """
        try:
            with Image.open(self.path) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise TrainingError(f"{self.path} cannot be read as a picture: {error}") from error
        scale = side / min(picture.size)
        width, height = (max(side, round(extent * scale)) for extent in picture.size)
        left, top = (width - side) // 2, (height - side) // 2
        scaled = picture.resize((width, height), Image.Resampling.LANCZOS) if scale != 1 else picture
        time_ids = (picture.height, picture.width, top, left, side, side)
        return scaled.crop((left, top, left + side, top + side)), time_ids


def read_dataset(folder: Path) -> list[Example]:
    """Return every picture in `folder` with its caption, sorted by name.

    Captions are read from `metadata.jsonl` (`file_name` and `text`, as in Hugging Face's image folders) or, without
    that file, from a `.txt` file of the same name for each picture.

    Raises:
        TrainingError: the folder does not exist, has no pictures, or has a picture without a caption.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder")
    metadata = folder / _METADATA
    examples = _from_metadata(metadata) if metadata.exists() else _from_text_files(folder)
    if not examples:
        raise TrainingError(f"{folder} holds no pictures ({', '.join(sorted(_SUFFIXES))})")
    return examples


def _from_metadata(metadata: Path) -> list[Example]:
    examples = []
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            example = Example(metadata.parent / str(entry["file_name"]), str(entry["text"]).strip())
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TrainingError(f"{metadata}:{number} needs file_name and text") from error
        if not example.path.is_file():
            raise TrainingError(f"{metadata}:{number} names {example.path.name}, which does not exist")
        examples.append(example)
    return sorted(examples, key=lambda example: example.path)


def _from_text_files(folder: Path) -> list[Example]:
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    bare = [path.name for path in pictures if not path.with_suffix(".txt").is_file()]
    if bare:
        others = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
        raise TrainingError(f"{bare[0]}{others} in {folder}: no caption; write it to a .txt file of the same name")
    return [Example(path, path.with_suffix(".txt").read_text(encoding="utf-8").strip()) for path in pictures]
