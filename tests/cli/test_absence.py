"""`--wait` says when no worker is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import sdxl
from worker.cli import absence
from worker.cli.absence import AGAIN_S, SILENCE_S, Absence
from worker.client.connection import Connection
from worker.events.single_object import SingleObjectCodec
from worker.settings import Settings
from worker.topics import Topics

CONNECTION = Connection(Settings(_env_file=None), Topics(), SingleObjectCodec())


def test_it_is_said_once_and_the_arrival_of_a_worker_too(capsys: pytest.CaptureFixture[str]) -> None:
    answers: Iterator[tuple[str, ...] | None] = iter([None, (), (), ("w1",), ("w1",), ()])
    asked = Absence(CONNECTION, 0.0, lambda: next(answers))
    asked.look(SILENCE_S - 0.1)
    said = []
    for n in range(6):
        asked.look(SILENCE_S + n * AGAIN_S)
        asked.look(SILENCE_S + n * AGAIN_S + 0.1)
        said.append(capsys.readouterr().err)
    assert [("no worker" in text, "has joined" in text) for text in said] == [
        (False, False),
        (True, False),
        (False, False),
        (False, True),
        (False, False),
        (True, False),
    ]


def test_nobody_is_asked_while_something_is_heard() -> None:
    def never() -> tuple[str, ...]:
        raise AssertionError

    asked = Absence(CONNECTION, 0.0, never)
    for now in range(10):
        asked.heard(float(now))
        asked.look(float(now))


@pytest.mark.usefixtures("kafka")
def test_submit_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "SILENCE_S", 0.1)

    def nobody(*_: Any) -> tuple[str, ...]:
        return ()

    monkeypatch.setattr(absence, "member_names", nobody)
    result = sdxl(
        "submit", "--girl-id", "g", "--user-id", "1", "--prompt", "p", "--lane", "high", "--wait", "--timeout", "1"
    )
    assert result.exit_code == 1
    assert "no worker is in the group sdxl-worker" in result.stderr
