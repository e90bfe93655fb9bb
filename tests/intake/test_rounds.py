"""How many records a tick takes: one of each lane, or several of those that have some."""

from __future__ import annotations

from collections import deque
from typing import Any, cast
from unittest.mock import Mock

import pytest

from worker.intake.consume import Intake
from worker.intake.ledger import Ledger
from worker.settings import Settings

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
    members, took = Members(come), list[str]()
    intake_of(members, took, rounds, monkeypatch).tick(0.5)
    assert len(took) == taken
    waits = [timeout_s for _, timeout_s in members.polls if timeout_s]
    assert waits == ([0.5] if come == 0 else []), "nobody waits while there are records"


def test_only_members_that_have_records_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    members = Members(3)
    members.come["high"].append("record")
    intake_of(members, [], 10, monkeypatch).tick(0.5)
    asked = [topic for topic, _ in members.polls]
    assert asked == ["normal", "high", "urgent", "normal", "high", "normal", "normal"]


def intake_of(members: Members, took: list[str], rounds: int, monkeypatch: pytest.MonkeyPatch) -> Intake:
    monkeypatch.setattr("worker.intake.consume.LogFollower", Mock())
    monkeypatch.setattr("worker.intake.consume.Reopener", Mock())
    monkeypatch.setattr(Intake, "_take", lambda _self, message, _topic: took.append(message))
    monkeypatch.setattr(Intake, "_balance", lambda _self: None)
    any_: Any = Mock()
    return Intake(
        cast("Any", members), any_, any_, any_, any_, any_, any_, any_, TOPICS, lambda: 0.0, any_, rounds=rounds
    )


def test_a_partition_is_paused_for_what_its_reader_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.intake.consume.LogFollower", Mock())
    any_, members, ledger, full = cast("Any", Mock()), Mock(), Ledger(), {("normal", 0)}
    for partition in (0, 1):
        ledger.assign("normal", partition, 0, None)
    members.poll.return_value = None
    intake = Intake(
        members, any_, ledger, any_, any_, any_, any_, Settings(_env_file=None, aws_s3_bucket="b"), TOPICS,
        lambda: 0.0, any_, is_full=full.__contains__,
    )  # fmt: skip
    intake.tick(0.0)
    assert [(p.topic, p.partition) for p in members.pause.call_args.args[0]] == [("normal", 0)]
    full.clear()
    intake.tick(0.0)
    assert [(p.topic, p.partition) for p in members.resume.call_args.args[0]] == [("normal", 0)]
