"""What a dispatcher believes of the workers, report by report."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.events.strategies import NOW
from worker.dispatch.fleet import FORGOTTEN_S, SILENT_S, UNPLACED_S, Fleet
from worker.dispatch.policy import Request
from worker.events.types import LaneWork, Priority, WorkerReport, WorkPartition
from worker.job import Lane
from worker.topics import Topics

WORK = Topics("", "work")
NORMAL = WORK.normal


def fleet() -> Fleet:
    return Fleet(dict(zip(Lane, WORK.requests, strict=True)))


def report(name: str = "a", sequence: int = 1, position: int = 0, normal: int = 0, **more: Any) -> WorkerReport:
    fields: dict[str, Any] = {
        "session_id": "s",
        "picture_seconds": 2.0,
        "partitions": (WorkPartition(topic=NORMAL, partition=0, position=position),),
        "work": (LaneWork(priority=Priority.NORMAL, requests=normal, seconds=2.0 * normal),),
        "reported_at": NOW,
    }
    return WorkerReport(worker_id=name, sequence=sequence, **(fields | more))


def normal(known: Fleet, now_s: float = 0.0, name: str = "a") -> tuple[int, float]:
    worker = known.workers(now_s)[name]
    return worker.unfinished[Lane.NORMAL], worker.seconds[Lane.NORMAL]


def test_what_was_sent_counts_until_a_report_shows_that_it_was_read() -> None:
    known = fleet()
    known.hear(report(position=7, normal=1), 0.0)
    assert normal(known) == (1, 2.0)
    known.send(Request("x", Lane.NORMAL, 0.0), (NORMAL, 0))
    assert normal(known) == (2, 4.0)
    known.written("x", 7)
    known.durable("x", 0.1)
    known.hear(report(sequence=2, position=7, normal=0), 0.2)
    assert normal(known) == (1, 2.0), "the report was written before the request was read"
    known.hear(report(sequence=3, position=8, normal=1), 0.3)
    assert normal(known) == (1, 2.0)
    assert known.on_the_way == 0


def test_a_request_whose_offset_is_not_known_counts_for_a_while() -> None:
    known = fleet()
    known.hear(report(position=7), 0.0)
    known.send(Request("x", Lane.NORMAL, 0.0), (NORMAL, 0))
    known.durable("x", 1.0)
    known.hear(report(sequence=2, position=100), UNPLACED_S)
    assert normal(known, UNPLACED_S + 0.9) == (1, 2.0)
    assert normal(known, UNPLACED_S + 1.0) == (0, 0.0)


def test_a_request_that_was_not_written_is_taken_back() -> None:
    known = fleet()
    known.hear(report(), 0.0)
    known.send(Request("x", Lane.NORMAL, 0.0), (NORMAL, 0))
    known.unsend("x")
    assert normal(known) == (0, 0.0)


def test_a_request_goes_with_its_partition() -> None:
    known = fleet()
    known.hear(report("a"), 0.0)
    known.send(Request("x", Lane.NORMAL, 0.0), (NORMAL, 0))
    known.hear(report("a", sequence=2, partitions=()), 0.1)
    known.hear(report("b"), 0.1)
    assert normal(known, name="b") == (1, 2.0)
    assert normal(known, name="a") == (0, 0.0)


def test_a_worker_without_a_partition_of_a_lane_gets_nothing_of_it() -> None:
    known = fleet()
    known.hear(report(), 0.0)
    worker = known.workers(0.0)["a"]
    assert worker.has_room(Lane.NORMAL)
    assert not worker.has_room(Lane.URGENT)


def test_silence_and_a_farewell_end_it_and_an_old_report_changes_nothing() -> None:
    known = fleet()
    known.hear(report(sequence=5, normal=1), 0.0)
    known.hear(report(sequence=4, normal=0), 1.0)
    assert normal(known, 1.0) == (1, 2.0)
    assert not len(known.workers(SILENT_S))
    assert known.silent(SILENT_S) == ["a"]
    # A new session begins to count anew.
    known.hear(report(sequence=1, session_id="t"), SILENT_S)
    assert list(known.workers(SILENT_S)) == ["a"]
    known.hear(report(sequence=2, session_id="t", accepts=False), SILENT_S)
    assert not len(known.workers(SILENT_S))
    assert known.silent(2 * SILENT_S) == [], "it has said that it takes nothing more"
    known.hear(report(sequence=3, session_id="t"), 2 * SILENT_S)
    assert known.silent(4 * SILENT_S) == ["a"]
    known.workers(2 * SILENT_S + FORGOTTEN_S)
    assert known.silent(2 * SILENT_S + FORGOTTEN_S) == []


def test_the_partition_with_the_fewest_requests_on_their_way_is_next() -> None:
    known = fleet()
    partitions = tuple(WorkPartition(topic=NORMAL, partition=number) for number in (3, 4))
    known.hear(report(partitions=partitions), 0.0)
    places = []
    for number in range(4):
        places.append(known.place_for("a", Lane.NORMAL))
        known.send(Request(number, Lane.NORMAL, 0.0), places[-1])
    assert [partition for _, partition in places] == [3, 4, 3, 4]


HAPPENS = st.lists(
    st.one_of(
        st.tuples(st.just("hear"), st.sampled_from("ab"), st.integers(0, 6), st.booleans(), st.sets(st.integers(0, 3))),
        st.tuples(st.just("send"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.sampled_from(("written", "durable", "unsend")), st.integers(0, 9), st.integers(0, 6)),
        st.tuples(st.just("wait"), st.sampled_from((0.1, 1.0, SILENT_S))),
    ),
    max_size=40,
)


@given(HAPPENS)
def test_looking_at_what_has_changed_is_as_good_as_looking_at_everything(happens: list[tuple[Any, ...]]) -> None:
    often, once = fleet(), fleet()
    now_s, sent = 0.0, set[int]()
    for sequence, (what, *how) in enumerate(happens):
        for known in (often, once):
            match what:
                case "hear":
                    name, position, accepts, numbers = how
                    places = tuple(WorkPartition(topic=NORMAL, partition=n, position=position) for n in sorted(numbers))
                    known.hear(
                        report(name, sequence, partitions=places, accepts=accepts, loras=(str(position),)), now_s
                    )
                case "send" if how[0] not in sent:
                    known.send(Request(how[0], Lane.NORMAL, now_s, loras="x"), (NORMAL, how[1]))
                case "written":
                    known.written(how[0], how[1])
                case "durable":
                    known.durable(how[0], now_s)
                case "unsend":
                    known.unsend(how[0])
        sent |= {how[0]} if what == "send" else set()
        now_s += how[0] if what == "wait" else 0.0
        often.workers(now_s)
    once._changed.update("ab")
    seen, seen_once = often.workers(now_s), once.workers(now_s)
    assert {name: seen[name] for name in seen} == {name: seen_once[name] for name in seen_once}
