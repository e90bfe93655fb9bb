"""Which requests a cancellation covers: the order is that of the records."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from worker.events.types import GenerationRequest
from worker.intake.cancelled_jobs import CLOCK_TOLERANCE_S, CancelledJobs
from worker.job import Job, Lane, Origin

NOW = 1_800_000_000.0
CANCELLED_AT = NOW - 1000


def job(recorded_at: float | None, *, job_id: str = "a", received_at: float = NOW, offset: int = 0) -> Job:
    return Job(
        request=GenerationRequest(job_id=job_id, girl_id="g", user_id=1, prompt="p"),
        lane=Lane.NORMAL,
        origin=Origin("requests", 0, offset, 1),
        seed=1,
        loras=(),
        prompt="p",
        negative_prompt=None,
        attempt=1,
        requested_at=NOW,
        received_at=received_at,
        expires_at=None,
        recorded_at=recorded_at,
    )


def cancelled(at: float = CANCELLED_AT, job_id: str = "a") -> CancelledJobs:
    jobs = CancelledJobs()
    jobs.add(job_id, at, "changed my mind")
    return jobs


@pytest.mark.parametrize("ahead", [-86_400, -1, 0, 5, CLOCK_TOLERANCE_S])
def test_a_request_before_the_cancellation_is_covered_though_its_clock_is_ahead(ahead: float) -> None:
    assert cancelled().reason(job(CANCELLED_AT + ahead)) == "changed my mind"


@pytest.mark.parametrize("later", [CLOCK_TOLERANCE_S + 0.001, 60, 900])
def test_a_request_that_is_clearly_later_is_wanted(later: float) -> None:
    assert cancelled().reason(job(CANCELLED_AT + later)) is None


def test_another_jobs_cancellation_is_no_business_of_this_one() -> None:
    assert cancelled(job_id="b").reason(job(CANCELLED_AT - 1)) is None


@pytest.mark.parametrize("hours", [-9, 0, 9])
def test_what_the_requester_says_about_the_time_does_not_count(hours: int) -> None:
    # requested_at was local time, sent as UTC.
    request = replace(job(CANCELLED_AT - 1), requested_at=CANCELLED_AT + hours * 3600)
    assert cancelled().reason(request) is not None
    again = replace(job(CANCELLED_AT + 60), requested_at=CANCELLED_AT + hours * 3600)
    assert cancelled().reason(again) is None


def test_a_request_of_unknown_time_is_older_than_any_cancellation() -> None:
    assert cancelled().reason(job(None)) is not None


def test_a_record_from_the_future_is_of_unknown_time() -> None:
    received_at = CANCELLED_AT - 2
    assert cancelled().reason(job(CANCELLED_AT + 3600, received_at=received_at)) is not None


def test_nothing_is_recorded_after_it_was_received() -> None:
    # The clock is 9 s ahead, the cancellation came 1 s after the request arrived, and tells its time 3 s too early.
    request = job(CANCELLED_AT + 9, received_at=CANCELLED_AT + 2)
    assert cancelled(CANCELLED_AT).reason(request) is not None


def test_what_is_sent_again_at_once_is_wanted_where_the_cancelled_request_is_known() -> None:
    jobs = cancelled()
    first, again = job(CANCELLED_AT - 2, offset=1), job(CANCELLED_AT + 1, offset=2)
    assert jobs.reason(first) is not None
    assert jobs.reason(again) is None
    assert jobs.reason(first) is not None, "delivered again, it is still cancelled"


def test_a_cancellation_that_is_sent_twice_leaves_what_was_sent_again_alone() -> None:
    jobs = cancelled()
    assert jobs.reason(job(CANCELLED_AT - 2)) is not None
    jobs.add("a", CANCELLED_AT + 1, "twice")
    assert jobs.reason(job(CANCELLED_AT + 2)) is None


def test_what_was_sent_again_can_be_cancelled_again() -> None:
    jobs = cancelled()
    assert jobs.reason(job(CANCELLED_AT - 2)) is not None
    jobs.add("a", CANCELLED_AT + 100, "again")
    # Its clock is 5 s ahead.
    assert jobs.reason(job(CANCELLED_AT + 105)) == "again"


@given(st.permutations([CANCELLED_AT - 50, CANCELLED_AT, CANCELLED_AT + 50]))
def test_the_latest_of_several_cancellations_counts_in_whichever_order_they_are_read(times: list[float]) -> None:
    jobs = CancelledJobs()
    for at in times:
        jobs.add("a", at, f"at {at}")
    assert jobs.reason(job(CANCELLED_AT + 40)) == f"at {CANCELLED_AT + 50}"


def test_ids_that_are_no_longer_known_are_counted() -> None:
    def evicted() -> float:
        return REGISTRY.get_sample_value("sdxl_worker_cancellations_evicted_total") or 0.0

    before, jobs = evicted(), CancelledJobs(remembered_ids=3)
    for number in range(5):
        jobs.add(f"job-{number}", CANCELLED_AT, "no")
    assert evicted() - before == 2
    known = [number for number in range(5) if jobs.reason(job(CANCELLED_AT, job_id=f"job-{number}"))]
    assert known == [2, 3, 4]
