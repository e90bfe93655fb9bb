"""The records that the flags of `replay` select. Pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.replay.options import make_selection, parse_offsets, parse_replay_id, same_but_for_the_window
from worker.client.connection import Record
from worker.errors import ErrorCode
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationRequest, timestamp
from worker.intake.admit import AdmissionRules
from worker.job import Lane, Origin
from worker.replay.plan import _names_undecodable
from worker.replay.selection import History, Requested, Selection, admit_again, by_job
from worker.settings import Settings
from worker.topics import Topics

NOW = 1_800_000_000.0
NOW_MS = int(NOW * 1000)


def select(**flags: Any) -> Selection | None:
    defaults: dict[str, Any] = {
        "topics": Topics("x."),
        "since": None,
        "until": None,
        "names": (),
        "lanes": (),
        "partition": None,
        "offsets": None,
        "job_ids": (),
        "failed": False,
        "error_codes": (),
        "now": NOW,
    }
    return make_selection(**(defaults | flags))


def failed(job_id: str, code: ErrorCode, replay_id: str | None = None) -> GenerationFailed:
    return GenerationFailed(
        job_id=job_id, error_code=code, error_message="no", replay_id=replay_id, failed_at=timestamp(NOW)
    )


def completed(job_id: str, replay_id: str | None = None) -> GenerationCompleted:
    return GenerationCompleted(
        job_id=job_id, girl_id="g", user_id=1, image_url="", thumbnail_url="", manifest_url="", generation_time=1,
        queue_time=1, gpu_seconds=1, width=64, height=64, content_type="image/jpeg", byte_count=1, sha256="", seed=1,
        prompt="p", num_inference_steps=1, guidance_scale=1, scheduler="s", replay_id=replay_id,
        completed_at=timestamp(NOW),
    )  # fmt: skip


class TestFlags:
    def test_no_flag_selects_nothing_rather_than_everything(self) -> None:
        assert select() is None
        assert select(since="beginning") is not None

    def test_a_window_without_an_end_ends_now(self) -> None:
        selection = select(since="2h")
        assert selection is not None
        assert (selection.since_ms, selection.until_ms) == (NOW_MS - 7_200_000, NOW_MS)

    def test_a_job_id_needs_no_window(self) -> None:
        selection = select(job_ids=["a", "b", "a"])
        assert selection is not None
        assert (selection.job_ids, selection.since_ms, selection.until_ms) == (("a", "b"), None, None)

    def test_a_topic_is_its_lane(self) -> None:
        selection = select(names=["x.generation.requests.high"], lanes=["urgent"])
        assert selection is not None
        assert selection.lanes == (Lane.URGENT, Lane.HIGH)

    def test_an_error_code_means_failed_ones(self) -> None:
        selection = select(error_codes=["expired"])
        assert selection is not None
        assert (selection.failed, selection.error_codes) == (True, (ErrorCode.EXPIRED,))

    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            ({"names": ["generation.completed"]}, "request topic"),
            ({"offsets": "3-9"}, "--partition"),
            ({"offsets": "3-9", "partition": 1}, "--lane"),
            ({"offsets": "9-3", "partition": 1, "lanes": ["high"]}, "FIRST-LAST"),
            ({"partition": -1}, "--partition"),
            ({"error_codes": ["nonsense"]}, "error code"),
            ({"since": "1h", "until": "2h"}, "--until"),
            ({"since": "yesterday"}, "neither"),
        ],
    )
    def test_flags_that_make_no_sense_are_refused(self, flags: dict[str, Any], named: str) -> None:
        with pytest.raises(ValueError, match=named):
            select(**flags)

    def test_offsets(self) -> None:
        assert parse_offsets("5-9") == (5, 9)
        assert parse_offsets("7") == (7, 7)

    def test_a_replay_id_is_a_uuid(self) -> None:
        assert parse_replay_id("{5A6F1F4E-0000-4000-8000-000000000001}") == "5a6f1f4e-0000-4000-8000-000000000001"
        assert parse_replay_id(None) != parse_replay_id(None)
        with pytest.raises(ValueError, match="UUID"):
            parse_replay_id("../../etc")

    def test_the_same_flags_later_are_the_same_selection(self) -> None:
        first, second = select(since="2h", lanes=["high"]), select(since="2h", lanes=["high"], now=NOW + 60)
        assert first is not None
        assert second is not None
        assert first != second
        assert same_but_for_the_window(first, second)
        other = select(since="2h")
        assert other is not None
        assert not same_but_for_the_window(first, other)


class TestRecords:
    def test_the_window_takes_its_start_and_not_its_end(self) -> None:
        selection = Selection(since_ms=10, until_ms=20)
        assert [ms for ms in (9, 10, 19, 20) if selection.covers(0, 0, ms)] == [10, 19]
        assert not selection.covers(0, 0, None)

    def test_offsets_are_of_one_partition_and_both_taken(self) -> None:
        selection = Selection(partition=1, offsets=(5, 7))
        assert [offset for offset in range(10) if selection.covers(1, offset, 0)] == [5, 6, 7]
        assert not selection.covers(0, 6, 0)

    def test_a_failed_jobs_request_may_be_older_than_the_window(self) -> None:
        assert Selection(since_ms=10, failed=True).covers(0, 0, 3)

    def test_records_of_one_id_are_one_job(self) -> None:
        records = [record("a", 0), record("b", 1), record("a", 2)]
        assert [[r.origin.offset for r in group] for group in by_job(records)] == [[0, 2], [1]]

    @given(
        lanes=st.sets(st.sampled_from(Lane), min_size=1),
        window=st.tuples(st.none() | st.integers(0), st.none() | st.integers(0)),
        offsets=st.none() | st.tuples(st.integers(0), st.integers(0)),
        ids=st.lists(st.text()),
        codes=st.sets(st.sampled_from(ErrorCode)),
    )
    def test_a_selection_survives_its_state_file(
        self, lanes: Any, window: Any, offsets: Any, ids: Any, codes: Any
    ) -> None:
        selection = Selection(
            lanes=tuple(lanes),
            since_ms=window[0],
            until_ms=window[1],
            offsets=offsets,
            job_ids=tuple(ids),
            failed=bool(codes),
            error_codes=tuple(codes),
        )
        assert Selection.from_json(selection.to_json()) == selection


class TestHistory:
    def test_failed_only_takes_the_jobs_with_that_code_in_the_window(self) -> None:
        selection = Selection(since_ms=10, until_ms=20, failed=True, error_codes=(ErrorCode.EXPIRED,))
        history = History(selection)
        history.note(failed("early", ErrorCode.EXPIRED), 9)
        history.note(failed("this", ErrorCode.EXPIRED), 15)
        history.note(failed("other", ErrorCode.INTERNAL), 15)
        assert [job for job in ("early", "this", "other", "none") if selection.takes(job, history)] == ["this"]

    def test_failed_only_without_a_code_takes_every_failed_one(self) -> None:
        selection = Selection(failed=True)
        history = History(selection)
        history.note(failed("a", ErrorCode.INTERNAL), 1)
        assert selection.takes("a", history)
        assert not selection.takes("b", history)

    def test_a_cancelled_job_is_left_alone_unless_it_is_named(self) -> None:
        by_name, by_code = Selection(job_ids=("c",)), Selection(failed=True, error_codes=(ErrorCode.CANCELLED,))
        for selection, taken in (
            (Selection(), False),
            (Selection(failed=True), False),
            (by_name, True),
            (by_code, True),
        ):
            history = History(selection)
            history.note(failed("c", ErrorCode.CANCELLED), 1)
            assert selection.takes("c", history) is taken

    def test_a_cancelled_job_that_the_selection_names_otherwise_is_told(self) -> None:
        for selection, named in (
            (Selection(), True),
            (Selection(failed=True), True),
            (Selection(job_ids=("x",)), False),
        ):
            history = History(selection)
            history.note(failed("c", ErrorCode.CANCELLED), 1)
            assert selection.names("c", history) is named
        assert Selection().leaves_out_cancelled("c", history)

    @pytest.mark.parametrize(
        ("selection", "named"),
        [
            (Selection(), True),
            (Selection(job_ids=("job",)), True),
            (Selection(job_ids=("other",)), False),
            (Selection(failed=True), False),
            (Selection(since_ms=NOW_MS + 1), False),
            (Selection(since_ms=NOW_MS), True),
            (Selection(partition=1), False),
            (Selection(partition=0, offsets=(5, 6)), False),
        ],
    )
    def test_an_undecodable_record_counts_where_the_selection_names_it(self, selection: Selection, named: bool) -> None:
        garbage = Record("generation.requests.high", 0, 4, b"job", b"{}", (), NOW_MS)
        assert _names_undecodable(selection, garbage, garbage.timestamp_ms) is named

    def test_its_own_results_are_answers_and_no_history(self) -> None:
        history = History(Selection(failed=True), "mine")
        history.note(completed("a", "mine"), 1)
        history.note(failed("b", ErrorCode.INTERNAL, "mine"), 1)
        history.note(completed("c", "theirs"), 1)
        assert history.answered == {"a", "b"}
        assert not history.matching
        assert list(history.completed) == ["c"]


class TestAdmission:
    def test_a_request_that_expired_is_made_again_as_it_was(self) -> None:
        old = record("a", 0, expires_at=timestamp(1))
        job = admit_again(old, AdmissionRules(Settings(_env_file=None)), NOW, "r-1")
        assert (job.expires_at, job.requested_at, job.replay_id) == (None, NOW, "r-1")
        assert job.request == old.request


def record(job_id: str, offset: int, **fields: Any) -> Requested:
    request = GenerationRequest(job_id=job_id, girl_id="g", user_id=1, prompt="p", **fields)
    return Requested(request, Lane.HIGH, Origin("t", 0, offset, 0), 1.0)
