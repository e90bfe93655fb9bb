"""Which jobs are worked on, and whose an id is."""

from __future__ import annotations

from dataclasses import replace

from tests.intake.test_cancelled_jobs import NOW, job
from worker.intake.jobs_in_hand import JobsInHand
from worker.job import Job, Origin


def of(girl_id: str, offset: int, job_id: str = "a") -> Job:
    found = job(NOW, offset=offset)
    return replace(found, request=replace(found.request, girl_id=girl_id, job_id=job_id))


def test_jobs_are_known_by_their_id_until_they_leave() -> None:
    jobs = JobsInHand()
    for offset, job_id in enumerate(("a", "a", "b")):
        jobs.enter(of("luna", offset, job_id))
    assert [job.origin.offset for job in jobs.of("a")] == [0, 1]
    jobs.leave(Origin("requests", 0, 0, 1))
    assert [job.origin.offset for job in jobs.of("a")] == [1]
    jobs.leave(Origin("requests", 0, 1, 1))
    assert jobs.of("a") == []
    assert len(jobs.of("b")) == 1


def test_an_origin_that_never_came_in_may_leave() -> None:
    JobsInHand().leave(Origin("requests", 0, 1, 1))


def test_an_id_is_of_the_girl_that_has_its_picture() -> None:
    jobs = JobsInHand()
    first = of("luna", 1)
    jobs.enter(first)
    assert jobs.girl_of("a") is None
    jobs.on_picture(first)
    jobs.leave(first.origin)
    assert jobs.girl_of("a") == "luna"


def test_what_is_remembered_has_a_bound() -> None:
    jobs = JobsInHand(remembered_ids=2)
    for job_id in ("a", "b", "c"):
        jobs.on_picture(of("luna", 1, job_id))
    assert [jobs.girl_of(job_id) for job_id in ("a", "b", "c")] == [None, "luna", "luna"]
