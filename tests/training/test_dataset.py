"""Folders of captioned pictures: both layouts, and the errors for invalid ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from worker.training.dataset import Example, TrainingError, read_dataset


def picture(folder: Path, name: str, size: tuple[int, int] = (32, 32), words: str | None = "a star") -> Path:
    path = folder / name
    Image.new("RGB", size, "red").save(path)
    if words is not None:
        path.with_suffix(".txt").write_text(words + "\n")
    return path


def test_captions_come_from_text_files(tmp_path: Path) -> None:
    picture(tmp_path, "b.png", words="a red star")
    picture(tmp_path, "a.jpg")
    (tmp_path / "notes.md").write_text("not a picture")
    assert read_dataset(tmp_path) == [Example(tmp_path / "a.jpg", "a star"), Example(tmp_path / "b.png", "a red star")]


def test_captions_come_from_metadata(tmp_path: Path) -> None:
    picture(tmp_path, "a.png", words=None)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a moon"}) + "\n\n")
    assert read_dataset(tmp_path) == [Example(tmp_path / "a.png", "a moon")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "metadata.jsonl:1 needs file_name and text"),
        ('{"file_name": "a.png"}', "metadata.jsonl:1 needs file_name and text"),
        ("[]", "metadata.jsonl:1 needs file_name and text"),
        ('{"file_name": "x.png", "text": "x"}', "metadata.jsonl:1 names x.png, which does not exist"),
    ],
)
def test_bad_metadata_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(TrainingError, match=message):
        read_dataset(tmp_path)


def test_a_picture_without_words_is_named(tmp_path: Path) -> None:
    picture(tmp_path, "a.png", words=None)
    picture(tmp_path, "b.png", words=None)
    with pytest.raises(TrainingError, match=r"a\.png and 1 more in .*: no caption"):
        read_dataset(tmp_path)


def test_a_folder_that_is_none_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not a folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(TrainingError, match="holds no pictures"):
        read_dataset(tmp_path)


def test_a_picture_becomes_a_square_with_its_time_ids(tmp_path: Path) -> None:
    wide = Example(picture(tmp_path, "wide.png", size=(200, 100)), "")
    square, time_ids = wide.square(64)
    assert square.size == (64, 64)
    assert time_ids == (100, 200, 0, 32, 64, 64)


def test_bytes_that_are_no_picture_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"a\.png cannot be read as a picture"):
        Example(tmp_path / "a.png", "").square(64)
