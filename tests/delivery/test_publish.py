"""A flush that the brokers refuse costs nothing else its outcome, whatever in it is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from worker.delivery.blocked import FIRST_PAUSE_S, LONGEST_PAUSE_S, Cause
from worker.delivery.publish import _RIGHT_AGAIN_S, STUCK_AFTER_S, Publisher, PublisherHooks
from worker.delivery.rights import missing_right
from worker.delivery.transport import Encoded, Offset, Refused, TryAgain
from worker.events.single_object import SingleObjectCodec
from worker.intake.ledger import Commit, Ledger
from worker.job import Origin
from worker.outcome import Message, Notice, Outcome

RESULTS, STATUS, DEAD = "generation.completed", "generation.status", "generation.dead-letter"
Verdict = Callable[[Encoded], Cause | None]


@dataclass
class Brokers:
    """A transport that refuses by `verdict`, naming the records or not, and keeps what it took."""

    verdict: Verdict = lambda _: None
    names: bool = True
    batch_bytes: int = 1 << 30
    taken: list[Encoded] = field(default_factory=list)
    sends: int = 0
    down: bool = False

    def prepare(self, *, again: bool) -> None:
        """There is nothing to wait for."""

    def serve(self) -> None:
        """There are no events."""

    def membership(self) -> None:
        return None

    def send(
        self, records: Sequence[Encoded], _offsets: Sequence[Offset], _membership: Any, *, again: bool
    ) -> dict[int, int]:
        del again
        self.sends += 1
        if self.down:
            raise TryAgain("no broker answers")
        causes = {index: cause for index, record in enumerate(records) if (cause := self.verdict(record)) is not None}
        if sum(len(record.value or b"") for record in records) > self.batch_bytes:
            causes |= {index: Cause("too large together", size=True) for index in range(len(records))}
        if causes:
            raise Refused("refused", causes if self.names else {})
        self.taken += records
        return {}

    def open(self) -> None: ...

    def close(self) -> None: ...

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self.taken]


class Books:
    """Books in which everything is owned, but for `lost`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.finished: list[int] = []
        self.lost: set[int] = set()

    def owns(self, origin: Origin) -> bool:
        return origin.offset not in self.lost

    def is_closing(self, _origin: Origin) -> bool:
        return False

    def start(self, _origin: Origin) -> int:
        return 1

    def finish(self, origins: Iterable[Origin]) -> None:
        self.finished += [origin.offset for origin in origins]

    def has_passed(self, _key: tuple[str, int], _offset: int) -> bool:
        return False

    def commits(self, finishing: Any, also: Any = ()) -> list[Any]:
        del also
        return [Commit(o.topic, o.partition, o.offset, "") for o in finishing]


class Desk:
    """A publisher on a clock of the test's own."""

    def __init__(self, brokers: Brokers) -> None:
        self.brokers, self.books, self.now = brokers, Books(), 0.0
        self.committed: list[int] = []
        self.released: list[int] = []
        hooks = PublisherHooks(
            on_started=lambda *_: None,
            on_committed=lambda origin: self.committed.append(origin.offset),
            on_not_owned=lambda origin: self.released.append(origin.offset),
        )
        self.publisher = Publisher(brokers, self.books, SingleObjectCodec(), hooks, flush_interval_s=0.1)  # type: ignore[arg-type]

    def put(self, *items: Outcome | Notice) -> None:
        for item in items:
            self.publisher.enqueue(item, self.now)

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        end = self.now + seconds
        while self.now < end:
            if not self.publisher.tick(self.now):
                self.now += 0.05


def message(topic: str, text: str) -> Message:
    return Message(topic=topic, key=b"job", value=text.encode())


def outcome(offset: int, topic: str = RESULTS, *, smallest: str | None = None) -> Outcome:
    extras = () if topic == DEAD else (message(STATUS, f"status-{offset}"),)
    return Outcome(
        origin=Origin("generation.requests.high", offset % 3, offset, 1),
        messages=(message(topic, f"result-{offset}"), *extras),
        smallest=() if smallest is None else (message(topic, smallest),),
    )


def refuses(*texts: str, **kind: bool) -> Verdict:
    values = {text.encode() for text in texts}
    return lambda record: Cause("refused", **kind) if record.value in values else None


def of_topic(topic: str) -> Verdict:
    return lambda record: Cause(f"{topic} is missing", of_topic=True) if record.topic == topic else None


def test_all_is_sent_in_one_flush_where_nothing_is_refused() -> None:
    desk = Desk(Brokers())
    desk.put(*(outcome(n) for n in range(5)))
    desk.run(1)
    assert (desk.committed, desk.brokers.sends) == ([0, 1, 2, 3, 4], 1)


@pytest.mark.parametrize("names", [True, False])
def test_a_result_that_is_too_large_becomes_its_smallest_form(names: bool) -> None:
    desk = Desk(Brokers(refuses("result-3", size=True), names=names))
    desk.put(*(outcome(n, smallest=f"small-{n}") for n in range(8)))
    desk.run(1)
    values = desk.brokers.values
    assert sorted(desk.committed) == list(range(8))
    assert b"small-3" in values
    assert b"result-3" not in values
    assert {f"result-{n}".encode() for n in range(8) if n != 3} <= set(values)


def test_a_status_that_is_refused_is_left_out_before_its_result_is_touched() -> None:
    desk = Desk(Brokers(refuses("status-2", size=True)))
    desk.put(*(outcome(n, smallest="small") for n in range(4)))
    desk.run(1)
    assert sorted(desk.committed) == [0, 1, 2, 3]
    assert {b"result-2", b"status-1", b"status-3"} <= set(desk.brokers.values)
    assert not {b"status-2", b"small"} & set(desk.brokers.values)


def test_a_refused_notice_is_gone_and_costs_nothing_else() -> None:
    desk = Desk(Brokers(refuses("step 1")))
    notice = Notice(origin=Origin("generation.requests.high", 0, 99, 1), message=message(STATUS, "step 1"))
    desk.put(notice, outcome(1), outcome(2))
    desk.run(1)
    assert (sorted(desk.committed), desk.brokers.sends) == ([1, 2], 2)


def test_records_that_are_too_large_only_together_are_sent_apart() -> None:
    desk = Desk(Brokers(batch_bytes=40))
    desk.put(*(outcome(n, smallest="small") for n in range(6)))
    desk.run(1)
    assert sorted(desk.committed) == list(range(6))
    assert b"small" not in desk.brokers.values


def test_a_missing_status_topic_costs_one_flush_and_no_result() -> None:
    desk = Desk(Brokers(of_topic(STATUS)))
    desk.put(*(outcome(n) for n in range(10)))
    desk.run(1)
    assert sorted(desk.committed) == list(range(10))
    assert desk.brokers.sends == 2
    desk.put(outcome(10))
    desk.run(1)
    assert desk.brokers.sends == 3, "what is known to be refused is not sent"


def test_a_missing_dead_letter_topic_holds_back_its_own_and_nothing_else() -> None:
    desk = Desk(Brokers(of_topic(DEAD)))
    desk.put(outcome(0, DEAD), *(outcome(n) for n in range(1, 6)), outcome(6, DEAD))
    desk.run(1)
    assert sorted(desk.committed) == [1, 2, 3, 4, 5]
    problem = desk.publisher.problem(desk.now)
    assert problem is not None
    assert "2 outcomes" in problem
    assert "generation.requests.high/0@0" in problem
    assert "generation.dead-letter is missing" in problem
    assert desk.publisher.idle, "a drain does not wait for it"

    sends = desk.brokers.sends
    desk.run(600)
    assert desk.brokers.sends - sends <= 2 + 600 / 30, "probed one by one, at growing intervals"

    desk.brokers.verdict = lambda _: None
    desk.run(LONGEST_PAUSE_S + 1)
    assert sorted(desk.committed) == list(range(7))
    assert desk.publisher.problem(desk.now) is None


def test_a_blocked_outcome_whose_record_has_another_owner_is_released() -> None:
    desk = Desk(Brokers(of_topic(DEAD)))
    desk.put(outcome(0, DEAD))
    desk.run(1)
    desk.books.lost.add(0)
    desk.run(LONGEST_PAUSE_S + 1)
    assert desk.released == [0]
    assert desk.publisher.problem(desk.now) is None


def test_a_flush_that_fails_for_long_is_a_problem_until_it_passes() -> None:
    desk = Desk(Brokers(down=True))
    desk.put(outcome(0))
    desk.run(STUCK_AFTER_S / 2)
    assert desk.publisher.problem(desk.now) is None
    desk.run(STUCK_AFTER_S)
    problem = desk.publisher.problem(desk.now)
    assert problem is not None
    assert "no broker answers" in problem
    desk.brokers.down = False
    desk.run(10)
    assert (desk.committed, desk.publisher.problem(desk.now)) == ([0], None)
    assert desk.publisher.failing_s(desk.now) == 0


def test_a_blocked_outcome_is_named_and_does_not_count_as_a_failing_flush() -> None:
    desk = Desk(Brokers(refuses("result-1", size=True)))
    desk.put(outcome(1))
    desk.run(5 * STUCK_AFTER_S)
    problem = desk.publisher.problem(desk.now)
    assert problem is not None
    assert "outcomes cannot be written; first generation.requests.high/1@1" in problem
    assert desk.publisher.failing_s(desk.now) == 0


def test_the_books_are_read_after_every_wait() -> None:
    """What is lost while the transport waits for a coordinator, or the registry is asked, is not sent."""
    brokers = Brokers()
    desk = Desk(brokers)

    def lose(*, again: bool) -> None:
        del again
        assert desk.publisher.flush_under_way is None
        desk.books.lost.add(1)

    brokers.prepare = lose  # type: ignore[method-assign]
    desk.put(outcome(0), outcome(1))
    desk.run(1)
    assert (desk.committed, desk.released) == ([0], [1])
    assert b"result-1" not in brokers.values


def test_an_idle_publisher_takes_the_events_of_its_producer() -> None:
    brokers = Brokers()
    served: list[None] = []
    brokers.serve = lambda: served.append(None)  # type: ignore[method-assign]
    desk = Desk(brokers)
    assert not desk.publisher.tick(0.0)
    assert served


class Forbidding(Brokers):
    """Brokers that give no producer id while the right on the transactional id is missing."""

    forbidden = True

    def prepare(self, *, again: bool = False) -> None:
        del again
        if self.forbidden:
            error = KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
            raise TryAgain("init_transactions", right=missing_right(error))

    def open(self) -> None:
        self.prepare()


def test_a_missing_right_is_told_at_once_and_its_return_is_seen_with_nothing_to_send() -> None:
    brokers = Forbidding()
    desk = Desk(brokers)
    desk.publisher.open()
    assert "grant WRITE and DESCRIBE on it" in str(desk.publisher.problem(desk.now))
    desk.run(_RIGHT_AGAIN_S + 1)
    assert desk.publisher.problem(desk.now) is not None
    brokers.forbidden = False
    desk.run(_RIGHT_AGAIN_S + 1)
    assert desk.publisher.problem(desk.now) is None


def test_a_right_that_goes_while_outcomes_come_holds_them_and_charges_none() -> None:
    brokers = Forbidding()
    desk = Desk(brokers)
    desk.put(*(outcome(n, smallest="small") for n in range(3)))
    desk.run(1)
    assert "transactional id" in str(desk.publisher.problem(desk.now))
    desk.run(60)
    brokers.forbidden = False
    desk.run(10)
    assert desk.publisher.problem(desk.now) is None
    assert sorted(desk.committed) == [0, 1, 2]
    assert b"small" not in brokers.values


def test_a_status_topic_that_takes_nothing_is_a_reason_to_look_at_the_cluster() -> None:
    desk = Desk(Brokers(lambda record: Cause("no right", of_topic=True) if record.topic == STATUS else None))
    desk.put(outcome(1))
    desk.run(1)
    assert desk.committed == [1]
    assert desk.publisher.is_failing
    desk.run(FIRST_PAUSE_S)
    assert not desk.publisher.is_failing


def test_what_is_not_acknowledged_goes_aside_whole_and_is_written_later() -> None:
    brokers = Brokers()
    desk = Desk(brokers)
    slow = {b"result-1", b"status-2"}
    send = brokers.send

    def send_slowly(records: Sequence[Encoded], *rest: Any, again: bool) -> dict[int, int]:
        suspects = {n: Cause("timed out") for n, record in enumerate(records) if record.value in slow}
        if suspects:
            raise TryAgain("not acknowledged", suspects)
        return send(records, *rest, again=again)

    brokers.send = send_slowly  # type: ignore[method-assign, assignment]
    desk.put(*(outcome(n, smallest="small") for n in range(4)))
    desk.run(5)
    assert sorted(desk.committed) == [0, 3]
    slow.clear()
    desk.run(LONGEST_PAUSE_S)
    assert sorted(desk.committed) == [0, 1, 2, 3]
    assert {b"result-1", b"status-1", b"result-2", b"status-2"} <= set(brokers.values)
    assert b"small" not in brokers.values


@given(
    count=st.integers(1, 12),
    bad=st.sets(st.integers(0, 11)),
    bad_status=st.sets(st.integers(0, 11)),
    small_is_bad=st.sets(st.integers(0, 11)),
    names=st.booleans(),
    batch_bytes=st.sampled_from([30, 60, 1 << 30]),
    notices=st.integers(0, 3),
)
def test_every_outcome_ends_once_or_is_blocked(
    count: int,
    bad: set[int],
    bad_status: set[int],
    small_is_bad: set[int],
    names: bool,
    batch_bytes: int,
    notices: int,
) -> None:
    texts = (
        [f"result-{n}" for n in bad] + [f"status-{n}" for n in bad_status] + [f"small-{n}" for n in bad & small_is_bad]
    )
    desk = Desk(Brokers(refuses(*texts, size=True), names=names, batch_bytes=batch_bytes))
    desk.put(*(outcome(n, smallest=f"small-{n}") for n in range(count)))
    for n in range(notices):
        desk.put(Notice(origin=Origin("generation.requests.high", 0, 50 + n, 1), message=message(STATUS, f"note-{n}")))
    desk.run(3)
    assert len(desk.committed) == len(set(desk.committed))
    # Without names, a refused status may cost its result the full form, and nothing else.
    assert set(desk.committed) == set(range(count)) - (bad & small_is_bad)
    if names:
        assert {f"result-{n}".encode() for n in set(range(count)) - bad} <= set(desk.brokers.values)
    for n in range(count):
        written = [v for v in desk.brokers.values if v in (f"result-{n}".encode(), f"small-{n}".encode())]
        assert len(written) == (n in desk.committed)


def test_an_end_that_is_reached_during_the_last_flush_is_committed_after_it() -> None:
    """As behind each record of a transaction, whose marker is the end. The lag would stay one for ever."""
    ledger = Ledger()
    committed: list[int] = []
    ledger.assign("work", 0, 0, None)
    origin = ledger.deliver("work", 0, 0, 0)
    assert origin is not None

    class ReachedMeanwhile(Brokers):
        def send(self, records: Any, offsets: Sequence[Offset], membership: Any, *, again: bool) -> dict[int, int]:
            committed.extend(offset.offset for offset in offsets)
            ledger.reach(("work", 0), 2, 0)
            return Brokers.send(self, records, offsets, membership, again=again)

    transport: Any = ReachedMeanwhile()
    hooks = PublisherHooks(on_started=lambda *_: None, on_committed=lambda _: None, on_not_owned=lambda _: None)
    publisher = Publisher(transport, ledger, SingleObjectCodec(), hooks, flush_interval_s=0.0)
    publisher.enqueue(Outcome(origin=origin, messages=(Message(topic=RESULTS, key=b"k", value=b"v"),)), 0.0)
    while publisher.tick(1.0):
        pass
    assert committed == [1, 2]
