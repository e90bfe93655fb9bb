"""The check of the demo's results: given published results, what is wrong, and the exit code."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from devtools.demo.judge import Ends, Shortfall, exit_code, shortfalls
from devtools.demo.requests import good_requests, invalid_request
from worker.events.types import Priority

EXPECTED = {"a": "completed", "b": "failed", "c": "dead-letter"}
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def ends(*pairs: tuple[str, str]) -> Ends:
    return Ends(list(pairs))


def test_everything_as_expected_is_exit_code_0() -> None:
    told = ends(*EXPECTED.items())
    assert told.complete(EXPECTED)
    assert exit_code(shortfalls(EXPECTED, told)) == 0


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ([], [Shortfall("a", "completed", "nothing")]),
        ([("a", "failed")], [Shortfall("a", "completed", "failed")]),
        ([("a", "completed"), ("a", "completed")], [Shortfall("a", "completed", "completed + completed")]),
        ([("a", "completed"), ("x", "failed")], [Shortfall("x", "nothing", "failed")]),
    ],
)
def test_lost_wrong_doubled_and_unasked_ends_are_told(told: list[tuple[str, str]], wrong: list[Shortfall]) -> None:
    found = shortfalls(EXPECTED, ends(*told, ("b", "failed"), ("c", "dead-letter")))
    assert found == wrong
    assert exit_code(found) == 1


@pytest.mark.parametrize("code", [1, -9, None])
def test_a_worker_that_does_not_end_cleanly_is_told(code: int | None) -> None:
    assert exit_code(shortfalls(EXPECTED, ends(*EXPECTED.items()), worker_exit_code=code)) == 1


def test_a_missing_picture_is_told() -> None:
    found = shortfalls(EXPECTED, ends(*EXPECTED.items()), missing_files=["generated/g/a.jpg"])
    assert [shortfall.what for shortfall in found] == ["generated/g/a.jpg"]


def test_the_requests_are_the_mix_that_the_page_promises() -> None:
    good = good_requests(NOW)
    assert len({request.job_id for request in good}) == 12
    assert {request.priority for request in good} == {Priority.URGENT, Priority.HIGH, Priority.NORMAL}
    assert {request.output_format.value for request in good} == {"jpeg", "webp", "png"}
    assert sum(request.high_quality for request in good) == 1
    assert all(6 <= request.num_inference_steps <= 30 for request in good)
    assert invalid_request(NOW).num_inference_steps == 0
