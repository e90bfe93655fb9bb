"""Digests are remembered, and never wrong: whatever happens to the files, and whatever is in the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.models.digest_cache import DigestCache, default_place
from worker.models.fingerprint import Ahead, digest_of

LATER_S = 1e10


class Counted:
    """A cache in a folder, and how often a digest was computed."""

    def __init__(self, place: Path | None, now: float = LATER_S) -> None:
        self.computed = 0
        self._cache = DigestCache(place, lambda: now, worth_bytes=1)

    def digest(self, file: Path) -> str:
        return self._cache.digest(file, self._compute)

    def _compute(self, file: Path) -> str:
        self.computed += 1
        return digest_of(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "digests.json"


def test_a_second_start_computes_nothing(file: Path, place: Path) -> None:
    assert Counted(place).digest(file) == digest_of(file)
    again = Counted(place)
    assert again.digest(file) == digest_of(file)
    assert again.computed == 0


def rewritten(file: Path) -> None:
    before = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(file: Path) -> None:
    before = file.stat()
    other = file.with_suffix(".new")
    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


def longer(file: Path) -> None:
    file.write_bytes(b"more weights")


@pytest.mark.parametrize("change", [rewritten, replaced, longer])
def test_another_content_is_noticed_though_its_time_is_set_back(
    file: Path, place: Path, change: Callable[[Path], None]
) -> None:
    Counted(place).digest(file)
    change(file)
    assert Counted(place).digest(file) == digest_of(file)


def test_a_file_that_was_just_written_is_not_remembered(file: Path, place: Path) -> None:
    Counted(place, now=file.stat().st_ctime + 1).digest(file)
    again = Counted(place)
    again.digest(file)
    assert again.computed == 1


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file: Path, place: Path) -> None:
    def compute(path: Path) -> str:
        before = digest_of(path)
        longer(path)
        return before

    DigestCache(place, lambda: LATER_S, worth_bytes=1).digest(file, compute)
    assert Counted(place).digest(file) == digest_of(file)


def swapped_digit(content: dict[str, Any]) -> str:
    text = json.dumps(content)
    digest = next(iter(content["files"].values()))["sha256"]
    return text.replace(digest, digest[::-1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda _: "{",
        lambda _: "null",
        lambda _: "[" * 100_000,
        lambda _: '{"version": 1, "files": {"x": 1}, "check": ""}',
        lambda _: "\0" * 2_000_000,
        lambda content: json.dumps(content | {"version": 2}),
        lambda content: json.dumps(content)[:-20],
        swapped_digit,
    ],
)
def test_a_damaged_cache_is_of_no_use_and_of_no_harm(file: Path, place: Path, damage: Callable[[Any], str]) -> None:
    Counted(place).digest(file)
    place.write_text(damage(json.loads(place.read_text())))
    assert Counted(place).digest(file) == digest_of(file)
    again = Counted(place)
    again.digest(file)
    assert again.computed == 0, "it was written anew"


def test_a_cache_that_cannot_be_written_or_read(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    for place in (tmp_path / "a file" / "digests.json", tmp_path, None):
        assert Counted(place).digest(file) == digest_of(file)


def test_workers_share_one_cache(tmp_path: Path, place: Path) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(300)]
    for number, path in enumerate(files):
        path.write_bytes(b"%d" % number)
    caches = [Counted(place), Counted(place)]
    for number, path in enumerate(files):
        caches[number % 2].digest(path)
    assert len(json.loads(place.read_text())["files"]) == 256, "the oldest are forgotten"
    reader = Counted(place)
    assert [reader.digest(path) for path in files[-9:]] == [digest_of(path) for path in files[-9:]]
    assert reader.computed == 0
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_small_files_are_not_worth_it(file: Path, place: Path) -> None:
    DigestCache(place, lambda: LATER_S).digest(file, digest_of)
    assert not place.exists()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_place() == Path("/caches/sdxl-worker/digests.json")
    monkeypatch.delenv("XDG_CACHE_HOME")

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    assert default_place() is None


def test_what_fails_ahead_is_raised_where_the_result_is_asked_for() -> None:
    assert Ahead(lambda: ["a", "b"]).result() == ["a", "b"]

    def fail() -> list[str]:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        Ahead(fail).result()
