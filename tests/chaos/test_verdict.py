"""The verdict of a chaos run and its measurements: a faulty run must fail."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import plan
from tests.chaos.counting import wrong_end
from tests.chaos.hostile import KINDS, kind_of
from tests.chaos.offsets import Marks
from tests.chaos.plan import SITE_KINDS, Kind
from tests.chaos.tally import Tally
from tests.chaos.traffic import Ending, ending_of, name_of, number_of
from tests.chaos.verdict import Evidence, complaints, duplicates, lost
from tests.chaos.worklog import (
    Change,
    Made,
    Takeover,
    held,
    percentile,
    read_changes,
    read_made,
    repeated_share,
    takeovers,
)


def tally(*counts: int) -> Tally:
    return Tally(bytearray(counts), sum(counts))


GOOD = Evidence(
    jobs=4,
    sent=tally(1, 2, 0, 1),
    requests=tally(1, 2, 0, 1),
    live=tally(1, 2, 0, 1),
    fresh=tally(1, 2, 0, 1),
    regressed=[],
    behind={},
    crashes=[],
    missing_pictures=[],
)


def test_a_run_with_one_outcome_for_each_record_passes() -> None:
    assert complaints(GOOD) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"live": tally(1, 1, 0, 1)}, "1 lost, says the consumer that followed: chaos-0000001"),
        ({"fresh": tally(0, 2, 0, 0)}, "2 lost, says a fresh read: chaos-0000000, chaos-0000003"),
        ({"live": tally(2, 2, 0, 1)}, "1 duplicated, says the consumer that followed: chaos-0000000"),
        ({"fresh": tally(1, 2, 1, 1)}, "1 duplicated, says a fresh read: chaos-0000002"),
        ({"work": tally(1, 2, 0, 2)}, "1 dispatched more than once: chaos-0000003"),
        ({"regressed": ["urgent/1 from 5 to 4"]}, "went back"),
        ({"behind": {"urgent/1": 3}}, "urgent/1: 3"),
        ({"crashes": ["worker-1 ended"]}, "worker-1 ended"),
        ({"missing_pictures": ["a.jpg"]}, "a.jpg"),
        ({"send_errors": ["timed out"]}, "timed out"),
        ({"jobs": 5}, "4 request records were acknowledged, not 5"),
    ],
)
def test_each_fault_is_told(change: dict[str, object], words: str) -> None:
    [line] = complaints(replace(GOOD, **change))  # type: ignore[arg-type]
    assert words in line


PLACE, OTHER = ("urgent", 1), ("urgent", 2)


def placed(tally: Tally, place: tuple[str, int]) -> Tally:
    return replace(tally, places=Counter({place: tally.total}))


@pytest.mark.parametrize("seen", [tally(1, 2, 0, 1), tally(1, 1, 0, 1)])
def test_what_a_log_lost_with_its_end_may_have_ended_or_not(seen: Tally) -> None:
    sent, requests = placed(tally(1, 2, 0, 1), PLACE), placed(tally(1, 1, 0, 1), PLACE)
    lossy = replace(GOOD, sent=sent, requests=requests, live=seen, fresh=seen, shortened={PLACE})
    assert complaints(lossy) == []
    [line] = complaints(replace(lossy, shortened={OTHER}))
    assert "1 request records are gone from urgent/1" in line
    assert len(complaints(replace(lossy, fresh=tally(1, 3, 0, 1)))) == 1


def test_an_offset_goes_back_once_and_no_further_than_a_log_was_cut() -> None:
    marks = Marks({PLACE: 4, OTHER: 4})
    for offset in (6, 4, 6, 5):
        marks.note(PLACE, offset)
    assert [line.partition(" at")[0] for line in marks.regressed] == ["urgent/1 from 6 to 5"]
    for offset in (6, 3):
        marks.note(OTHER, offset)
    assert [line.partition(" at")[0] for line in marks.regressed][1:] == ["urgent/2 from 6 to 3"]


def test_losses_and_duplicates_do_not_cancel_out() -> None:
    due, seen = tally(1, 1), tally(0, 2)
    assert (lost(due, seen), duplicates(due, seen)) == (["chaos-0000000"], ["chaos-0000001"])


def test_the_same_seed_draws_the_same_faults() -> None:
    assert plan.draw(7, 100) == plan.draw(7, 100)
    assert plan.draw(7, 100) != plan.draw(8, 100)


@pytest.mark.parametrize("seconds", [30, 100, 600])
def test_a_run_has_its_kills_and_some_of_each_other_fault(seconds: float) -> None:
    kinds = [fault.kind for fault in plan.draw(1, seconds)]
    assert kinds.count(Kind.KILL) >= 16
    assert all(kinds.count(kind) for kind in Kind)


def test_the_faults_of_brokers_and_s3_take_turns() -> None:
    kinds = [fault.kind for fault in plan.draw(3, 1000) if fault.kind in SITE_KINDS]
    assert kinds[: len(SITE_KINDS)] == list(SITE_KINDS)
    assert kinds == [SITE_KINDS[index % len(SITE_KINDS)] for index in range(len(kinds))]


def test_some_records_repeat_an_id_that_completes() -> None:
    repeats = [n for n in range(1000) if number_of(name_of(n)) != n]
    assert repeats
    assert {ending_of(number_of(name_of(n))) for n in repeats} == {Ending.COMPLETED}
    assert {ending_of(n) for n in range(1000)} == set(Ending)


def test_every_kind_of_hostile_record_is_sent_and_none_of_them_repeats_another() -> None:
    hostile = [n for n in range(100 * len(KINDS)) if kind_of(n)]
    assert sorted(str(kind_of(n)) for n in hostile) == sorted(KINDS)
    assert all(number_of(name_of(n)) == n for n in hostile)
    assert {ending_of(n) for n in hostile} == set(Ending)


def test_an_end_with_another_code_is_wrong() -> None:
    expired, invalid = (next(n for n in range(9999) if kind_of(n) == kind) for kind in ("expired in the year 1", "NaN"))
    assert wrong_end(name_of(expired), Ending.FAILED, "expired") is None
    assert wrong_end(name_of(invalid), Ending.FAILED, "expired") is not None
    assert wrong_end(name_of(expired), Ending.COMPLETED, "") is not None
    assert wrong_end(name_of(11), Ending.FAILED, "internal") is not None
    assert wrong_end(name_of(1), Ending.COMPLETED, "") is None


def gain(at: float, life: str, *places: str) -> Change:
    return Change(at, life, True, frozenset(places))


def test_a_takeover_ends_with_the_first_picture_of_another_process() -> None:
    changes = [gain(0, "a", "t/0", "t/1"), Change(1, "a", False, frozenset({"t/1"})), gain(9, "b", "t/0")]
    made = [Made(2, "a", "t/0", 1), Made(6, "b", "t/1", 5), Made(6, "a", "t/0", 1), Made(10, "b", "t/0", 1)]
    assert held(changes, "a", 5) == {"t/0"}
    assert takeovers({"a": 5}, changes, made) == [Takeover(5, (4,))]
    assert takeovers({"idle": 5}, changes, made) == []


def test_the_repeated_share_counts_records_that_had_a_picture_already() -> None:
    made = [Made(1, "a", "t/0", 1), Made(2, "b", "t/0", 1), Made(3, "b", "t/0", 2), Made(4, "b", "t/1", 1)]
    assert repeated_share(made) == 0.25
    assert repeated_share([]) == 0


def test_percentiles_are_of_the_values_there_are() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([3, 1, 2], 0.99) == 3
    assert percentile([], 0.5) is None


def test_files_that_a_kill_cut_short_are_read(tmp_path: Path) -> None:
    (tmp_path / "1-a.log").write_text("1.5 topic 2 3\n1.6 top")
    assert read_made([tmp_path / "1-a.log"]) == [Made(1.5, "1-a", "topic/2", 3)]
    line = '{"event": "assigned", "partitions": ["topic/2"], "timestamp": "1970-01-01T00:00:02Z"}'
    (tmp_path / "1-a.log").write_text(f"%3|noise\n{line}\n" + '{"event": "rev')
    assert read_changes([tmp_path / "1-a.log"]) == [gain(2, "1-a", "topic/2")]
