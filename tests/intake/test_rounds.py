"""How many records a tick takes: one of each lane, or several while there are some."""

from __future__ import annotations

from collections import deque
from typing import Any, cast
from unittest.mock import Mock

import pytest

from worker.intake.consume import Intake

TOPICS = ("urgent", "high", "normal")


class Members:
    """Members with records that have come; `polls` are the waits that were asked for."""

    def __init__(self, normal: int) -> None:
        self.come = {"urgent": deque[str](), "high": deque[str](), "normal": deque(["record"] * normal)}
        self.polls: list[tuple[str, float]] = []

    def poll(self, topic: str, timeout_s: float) -> str | None:
        self.polls.append((topic, timeout_s))
        return self.come[topic].popleft() if self.come[topic] else None


@pytest.mark.parametrize(("come", "rounds", "taken"), [(5, 1, 1), (5, 3, 3), (2, 3, 2), (0, 3, 0)])
def test_a_tick_takes_what_has_come_up_to_its_rounds_and_waits_only_for_the_first(
    monkeypatch: pytest.MonkeyPatch, come: int, rounds: int, taken: int
) -> None:
    members = Members(come)
    took: list[str] = []
    monkeypatch.setattr("worker.intake.consume.LogFollower", Mock())
    monkeypatch.setattr("worker.intake.consume.Reopener", Mock())
    monkeypatch.setattr(Intake, "_take", lambda _self, message, _topic: took.append(message))
    monkeypatch.setattr(Intake, "_balance", lambda _self: None)
    any_: Any = Mock()
    intake = Intake(
        cast("Any", members), any_, any_, any_, any_, any_, any_, any_, TOPICS, lambda: 0.0, any_, rounds=rounds
    )
    intake.tick(0.5)
    assert len(took) == taken
    waits = [timeout_s for _, timeout_s in members.polls if timeout_s]
    assert waits == ([0.5] if come == 0 else []), "nobody waits while there are records"
