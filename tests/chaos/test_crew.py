"""Whom the faults of processes hit, and what counts as a crash."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.chaos.crew import Crew, Life
from tests.chaos.roles import DISPATCHER, WORKER, role_of


class Process:
    """A process that ends when it is told to."""

    def __init__(self) -> None:
        self.exit_code: int | None = None

    @property
    def running(self) -> bool:
        return self.exit_code is None

    def kill(self) -> None:
        self.exit_code = -9

    def terminate(self) -> None:
        """Drains until the test ends it."""


def crew_of(folder: Path, *names: str) -> Crew:
    def hire(name: str) -> Life:
        log, work = folder / f"{name}.log", folder / f"{name}.work"
        log.write_text('{"event": "assigned"}\n')
        work.write_text("a picture")
        return Life(name, cast("Any", Process()), log, work)

    crew = Crew(hire, list(names), random.Random(1))
    crew.start()
    return crew


def test_one_of_each_role_is_left(tmp_path: Path) -> None:
    crew = crew_of(tmp_path, "worker-1", "worker-2", "dispatcher-1", "dispatcher-2")
    assert [crew.kill(60, new_name=False) for _ in range(3)] == [True, True, False]
    assert {role_of(post.name) for post in crew.posts if post.state == "up"} == {WORKER, DISPATCHER}


def test_a_single_dispatcher_is_left_alone(tmp_path: Path) -> None:
    crew = crew_of(tmp_path, "worker-1", "worker-2", "worker-3", "dispatcher-1")
    assert [crew.kill(60, new_name=False) for _ in range(3)] == [True, True, False]
    assert [post.name for post in crew.posts if post.state == "up"][-1] == "dispatcher-1"


@pytest.mark.parametrize(
    ("code", "words", "crashes", "frozen"),
    [
        (0, "", 0, 0),
        (1, "Timeout (0:00:11.666651)!\nThread 0x1", 0, 1),
        (1, "Traceback (most recent call last):", 1, 0),
        (2, "Timeout (0:00:11.666651)!", 0, 0),  # told as a start that was refused
    ],
)
def test_how_a_drain_may_end(tmp_path: Path, code: int, words: str, crashes: int, frozen: int) -> None:
    crew = crew_of(tmp_path, "worker-1", "worker-2")
    assert crew.drain(60)
    drained = next(post for post in crew.posts if post.state == "draining")
    drained.life.log.write_text(words)
    cast("SimpleNamespace", drained.life.process).exit_code = code
    crew.mend()
    assert (len(crew.crashes), crew.frozen_drains) == (crashes, frozen)


def test_one_that_ends_without_being_told_to_has_crashed_whatever_it_says(tmp_path: Path) -> None:
    crew = crew_of(tmp_path, "worker-1", "worker-2")
    post = crew.posts[0]
    post.life.log.write_text("Timeout (0:00:11.666651)!")
    cast("SimpleNamespace", post.life.process).exit_code = 1
    crew.mend()
    assert (len(crew.crashes), crew.frozen_drains) == (1, 0)
