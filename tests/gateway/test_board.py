"""What is remembered of jobs, and which records count."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.world import NOON
from worker.events.types import GenerationStatus, JobStatus, Priority
from worker.gateway.board import Board
from worker.job import Lane


def status(job_id: str, word: str = "queued", after_s: float = 0, **fields: Any) -> GenerationStatus:
    return GenerationStatus(
        job_id=job_id,
        status=JobStatus(word),
        updated_at=NOON + timedelta(seconds=after_s),
        **{"priority": Priority.NORMAL, **fields},
    )


def word(board: Board, job_id: str) -> str | None:
    entry = board.get(job_id)
    return None if entry is None else entry.event.status.value


def test_a_later_record_of_a_partition_counts_whatever_its_clock_says() -> None:
    board = Board(10)
    board.on_status(status("a", "running", 5), 0, 1)
    assert board.on_status(status("a", "completed", 3), 0, 2) is not None
    assert word(board, "a") == "completed"


def test_a_record_that_is_read_again_changes_nothing() -> None:
    board = Board(10)
    records = [(status("a", "queued", 1), 0, 1), (status("a", "running", 2), 0, 2), (status("a", "completed", 3), 0, 3)]
    for record in records:
        board.on_status(*record)
    assert [board.on_status(*record) for record in records] == [None, None, None]
    assert word(board, "a") == "completed"
    # The topic was made anew: offsets begin again, times go on.
    board.on_status(status("a", "queued", 9), 0, 0)
    assert word(board, "a") == "queued"


def test_between_partitions_the_later_time_counts() -> None:
    board = Board(10)
    board.on_status(status("a", "completed", 5), 0, 1)
    assert board.on_status(status("a", "running", 3), 1, 100) is None
    assert board.on_status(status("a", "failed", 7), 1, 101) is not None


def test_a_request_says_nothing_about_a_job_that_is_known() -> None:
    board = Board(10)
    board.on_status(status("a", "failed", 1), 0, 1)
    assert board.on_request(status("a", after_s=9), "digest") is None
    assert word(board, "a") == "failed"
    assert board.get("a").digest == "digest"  # type: ignore[union-attr]
    board.on_request(status("b"), "other")
    board.on_status(status("b", "running"), 0, 2)
    assert board.get("b").digest == "other"  # type: ignore[union-attr]


def test_what_arrived_while_a_request_was_sent_is_newer_than_the_acknowledgement() -> None:
    board = Board(10)
    board.on_status(status("a", "failed"), 0, 1)
    before = board.get("a")
    board.on_status(status("a", "completed", 1), 0, 2)
    assert board.on_sent(status("a"), "d", before) is None
    assert word(board, "a") == "completed"
    assert board.on_sent(status("a"), "d", board.get("a")) is not None
    assert word(board, "a") == "queued"


def test_a_tombstone_forgets_the_job() -> None:
    board = Board(10)
    board.on_status(status("a", "completed"), 3, 1)
    board.on_tombstone("a", 2)
    assert word(board, "a") == "completed"
    board.on_tombstone("a", 3)
    assert board.get("a") is None


def test_those_that_ended_are_forgotten_first() -> None:
    board = Board(2)
    board.on_status(status("old", "queued"), 0, 0)
    board.on_status(status("done", "completed", 1), 0, 1)
    board.on_status(status("new", "running", 2), 0, 2)
    assert (word(board, "old"), word(board, "done"), word(board, "new")) == ("queued", None, "running")
    assert board.complete
    board.on_status(status("newer", "queued", 3), 0, 3)
    assert word(board, "old") is None
    assert not board.complete


def test_old_and_new_are_told_apart_by_their_times() -> None:
    """Partitions are read one after the other, so what comes last need not be the latest."""
    board = Board(3)
    for number, at in enumerate([50, 90, 10, 70, 30]):
        board.on_status(status(f"at-{at}", "completed", at), number, 0)
    assert [entry.event.job_id for entry in board.latest()] == ["at-90", "at-70", "at-50"]
    for step in range(1_000):
        board.on_status(status("busy", "running", step), 0, step + 1)
    board.on_status(status("busy", "completed", 60), 0, 2_000)
    assert [entry.event.job_id for entry in board.latest()] == ["at-90", "at-70", "busy"]


def test_texts_of_strangers_are_bounded() -> None:
    board = Board(10)
    long = "x" * 100_000
    board.on_status(status("a", "failed", error_message=long, image_url=long, girl_id=long, worker_id=long), 0, 0)
    event = board.get("a").event  # type: ignore[union-attr]
    assert max(len(str(value)) for value in (event.error_message, event.image_url, event.girl_id)) <= 600
    assert board.on_status(status(long), 0, 1) is None
    assert board.on_status(status(""), 0, 2) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from(["queued", "running", "completed", "failed", "cancelled", "unknown", "tombstone"]),
        st.sampled_from([Priority.URGENT, Priority.HIGH, Priority.NORMAL, Priority.UNKNOWN]),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 4))
def test_the_counts_are_those_of_the_jobs(steps: list[tuple[str, str, Priority]], limit: int) -> None:
    board = Board(limit)
    for offset, (job_id, what, priority) in enumerate(steps):
        if what == "tombstone":
            board.on_tombstone(job_id, 0)
        else:
            board.on_status(replace(status(job_id, what, offset), priority=priority), 0, offset)
        assert len(board) <= limit
    events = [entry.event for entry in board.latest()]
    assert len(events) == len(board)
    for lane in Lane:
        mine = [event.status.value for event in events if event.priority.value == lane.label]
        waiting = sum(one in ("queued", "unknown") for one in mine)
        assert board.counts(lane) == (waiting, mine.count("running"))


def test_an_unfinished_job_comes_before_those_that_ended() -> None:
    board = Board(10)
    board.on_status(status("a", "running"), 0, 0)
    board.on_status(status("b", "completed"), 0, 1)
    board.on_status(status("c", "failed", 1), 0, 2)
    assert [entry.event.job_id for entry in board.latest()] == ["a", "c", "b"]
