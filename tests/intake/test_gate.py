"""One job of an id at a time."""

from __future__ import annotations

from worker.events.types import GenerationRequest
from worker.intake.gate import Gate
from worker.job import Job, Lane, Origin


def job(job_id: str, offset: int) -> Job:
    return Job(
        request=GenerationRequest(job_id=job_id, girl_id="g", user_id=1, prompt="p"),
        lane=Lane.NORMAL,
        origin=Origin("normal", 0, offset, 1),
        seed=1,
        loras=(),
        prompt="p",
        negative_prompt=None,
        attempt=1,
        requested_at=0.0,
        received_at=0.0,
        expires_at=None,
    )


def test_jobs_of_one_id_go_one_after_another_first_come_first() -> None:
    gate = Gate()
    first, second, third, other = job("a", 0), job("a", 1), job("a", 2), job("b", 3)
    assert [gate.enter(each) for each in (first, second, third, other)] == [True, False, False, True]
    assert gate.waiting() == [second, third]
    assert gate.leave(other.origin) == []
    assert gate.leave(first.origin) == [second]
    assert gate.leave(second.origin) == [third]
    assert gate.leave(third.origin) == []
    assert gate.enter(first)


def test_one_that_leaves_before_it_was_let_in_is_passed_by() -> None:
    gate = Gate()
    first, second, third = job("a", 0), job("a", 1), job("a", 2)
    for each in (first, second, third):
        gate.enter(each)
    assert gate.leave(second.origin) == []
    assert gate.waiting() == [third]
    assert gate.leave(first.origin) == [third]


def test_nothing_is_kept_of_jobs_that_have_left() -> None:
    gate = Gate()
    jobs = [job("a", 0), job("a", 1), job("b", 2)]
    for each in jobs:
        gate.enter(each)
    for each in reversed(jobs):
        gate.leave(each.origin)
    assert gate == Gate()
    assert gate.leave(jobs[0].origin) == []
