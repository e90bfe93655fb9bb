"""Whose an id is, as far as this process knows."""

from __future__ import annotations

from dataclasses import replace

from tests.intake.test_cancelled_jobs import NOW, job
from worker.intake.jobs_in_hand import JobsInHand
from worker.job import Job, Origin


def of(girl_id: str, offset: int) -> Job:
    found = job(NOW, offset=offset)
    return replace(found, request=replace(found.request, girl_id=girl_id))


def test_an_id_is_taken_while_its_job_is_unfinished() -> None:
    jobs = JobsInHand()
    assert jobs.enter(of("luna", 1), "one")
    assert not jobs.enter(of("luna", 2), "another prompt")
    assert not jobs.enter(of("mia", 3), "another girl")
    assert [job.origin.offset for job in jobs.of("a")] == [1]


def test_the_same_request_may_be_sent_twice() -> None:
    jobs = JobsInHand()
    assert jobs.enter(of("luna", 1), "one")
    assert jobs.enter(of("luna", 2), "one")
    assert len(jobs.of("a")) == 2
    jobs.leave(Origin("requests", 0, 1, 1))
    assert not jobs.enter(of("mia", 3), "another girl")


def test_an_id_whose_job_ended_without_a_picture_is_free() -> None:
    jobs = JobsInHand()
    assert jobs.enter(of("luna", 1), "one")
    jobs.leave(Origin("requests", 0, 1, 1))
    assert jobs.of("a") == []
    assert jobs.enter(of("mia", 2), "another girl")


def test_an_id_whose_picture_was_made_stays_that_girls() -> None:
    jobs = JobsInHand()
    first = of("luna", 1)
    assert jobs.enter(first, "one")
    jobs.on_picture(first)
    jobs.leave(first.origin)
    assert not jobs.enter(of("mia", 2), "another girl")
    # Of the same girl the store knows better, and answers what asks for the same picture.
    assert jobs.enter(of("luna", 3), "another prompt")


def test_what_is_remembered_has_a_bound() -> None:
    jobs = JobsInHand(remembered_ids=1)
    first = of("luna", 1)
    jobs.on_picture(first)
    jobs.on_picture(replace(first, request=replace(first.request, job_id="b")))
    assert jobs.enter(of("mia", 2), "another girl")


def test_an_origin_that_never_came_in_may_leave() -> None:
    JobsInHand().leave(Origin("requests", 0, 1, 1))
