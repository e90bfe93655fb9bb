"""The ledger against a simple model of a few partitions, with crashes, rebalances and late results."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from worker.errors import ProtocolError
from worker.intake.ledger import DELIVERED_MAX, Commit, Ledger, TopicPartition
from worker.intake.offset_metadata import MAX_BYTES, encode
from worker.job import Origin

KEYS: list[TopicPartition] = [("urgent", 0), ("normal", 0), ("normal", 1)]


@dataclass
class ModelPartition:
    """What a broker keeps of one partition, and what a worker in one life has of it."""

    records: list[int]  # offsets; what lies between them are transaction markers
    committed: int | None = None
    metadata: str | None = None
    finished: set[int] = field(default_factory=set)  # durable
    starts: dict[int, int] = field(default_factory=dict)  # durable
    before: dict[int, int] = field(default_factory=dict)  # the starts of lives before
    assigned: bool = False
    closing: bool = False
    next: int = 0
    working: dict[int, Origin] = field(default_factory=dict)
    started: dict[int, int] = field(default_factory=dict)  # in this life, not yet ended
    gone: list[Origin] = field(default_factory=list)  # no longer owned


class Keeping(RuleBasedStateMachine):
    """A broker with gaps in its offsets, and a worker that may end at any moment."""

    @initialize(
        gaps=st.lists(st.lists(st.integers(1, 3), min_size=8, max_size=25), min_size=3, max_size=3),
        first=st.sampled_from([0, 7, 2**62]),
    )
    def start_broker(self, gaps: list[list[int]], first: int) -> None:
        self.books = {}
        for key, steps in zip(KEYS, gaps, strict=True):
            records = [first]
            for step in steps:
                records.append(records[-1] + step)
            self.books[key] = ModelPartition(records)
        self.ledger = Ledger()

    @rule(key=st.sampled_from(KEYS))
    def assign(self, key: TopicPartition) -> None:
        book = self.books[key]
        self.let_go(book)
        self.ledger.assign(*key, book.committed, book.metadata)
        book.assigned, book.closing, book.before = True, False, dict(book.starts)
        base = book.committed if book.committed is not None else 0
        book.next = next((i for i, offset in enumerate(book.records) if offset >= base), len(book.records))

    @staticmethod
    def let_go(book: ModelPartition) -> None:
        book.gone += book.working.values()
        book.working, book.started, book.assigned = {}, {}, False

    @rule(key=st.sampled_from(KEYS), count=st.integers(1, 6))
    def deliver(self, key: TopicPartition, count: int) -> None:
        book = self.books[key]
        for _ in range(count):
            if not book.assigned or book.next == len(book.records):
                return
            offset = book.records[book.next]
            book.next += 1
            origin = self.ledger.deliver(*key, offset)
            assert (origin is None) == (offset in book.finished)
            assert self.ledger.was_read(key).stop == offset + 1
            if origin is not None:
                assert (origin.topic, origin.partition, origin.offset) == (*key, offset)
                assert self.ledger.starts(origin) == book.starts.get(offset, 0)
                book.working[offset] = origin
            assert self.ledger.deliver(*key, offset) is None
            assert self.ledger.is_through(key) == (not self.unfinished(book))

    @staticmethod
    def unfinished(book: ModelPartition) -> list[int]:
        """Records that have been delivered in this life or one before, and are still to do."""
        return [offset for offset in book.records[: book.next] if offset not in book.finished]

    def some(self, data: st.DataObject) -> list[tuple[ModelPartition, Origin]]:
        working = [(book, origin) for book in self.books.values() for origin in book.working.values()]
        return data.draw(st.lists(st.sampled_from(working), unique_by=lambda w: w[1])) if working else []

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        for book, origin in self.some(data):
            if origin.offset not in book.started:
                book.started[origin.offset] = book.starts.get(origin.offset, 0) + 1
                assert self.ledger.start(origin) == book.started[origin.offset]

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        for book, origin in self.some(data):
            self.ledger.release(origin)
            self.ledger.release(origin)
            book.started.pop(origin.offset, None)
            book.gone.append(book.working.pop(origin.offset))

    @rule(data=st.data(), also=st.lists(st.sampled_from(KEYS)), durable=st.sampled_from([True, True, False]))
    def flush(self, data: st.DataObject, also: list[TopicPartition], durable: bool) -> None:
        """Finish some records, with late results among them; the transaction may be aborted."""
        self.send(self.some(data), also, durable=durable)

    @rule(key=st.sampled_from(KEYS), count=st.integers(2, 6))
    def take_over(self, key: TopicPartition, count: int) -> None:
        """All but the first are finished, then a new owner finishes that one before it reads on."""
        book = self.books[key]
        for reads, spares in ((count, 1), (1, 0)):
            self.assign(key)
            self.deliver(key, reads)
            self.send([(book, origin) for origin in list(book.working.values())[spares:]], [key], durable=True)

    def send(self, ending: list[tuple[ModelPartition, Origin]], also: list[TopicPartition], *, durable: bool) -> None:
        late = [origin for book in self.books.values() for origin in book.gone]
        origins = [origin for _, origin in ending] + late
        commits = self.ledger.commits(origins, also)
        assert len({(c.topic, c.partition) for c in commits}) == len(commits)
        if not durable:
            return
        for commit in commits:
            book = self.books[commit.topic, commit.partition]
            assert book.assigned
            assert commit.offset >= (book.committed or 0)
            assert len(commit.metadata) <= MAX_BYTES
            book.committed, book.metadata = commit.offset, commit.metadata
            delivered = book.records[: book.next]
            for offset in delivered:
                count = book.started.get(offset) or book.before.get(offset)
                if count is None:
                    book.starts.pop(offset, None)  # it was released
                elif offset not in book.finished:
                    book.starts[offset] = count
        for book, origin in ending:
            del book.working[origin.offset]
            book.started.pop(origin.offset, None)
            book.starts.pop(origin.offset, None)
            book.finished.add(origin.offset)
        self.ledger.finish(origins)
        for commit in commits:
            book = self.books[commit.topic, commit.partition]
            unfinished = self.unfinished(book)
            assert unfinished == [] or commit.offset == unfinished[0]
            assert commit.offset not in book.finished
            assert {offset for offset in book.records if offset < commit.offset} <= book.finished

    @rule(keys=st.sets(st.sampled_from(KEYS)))
    def close(self, keys: set[TopicPartition]) -> None:
        self.ledger.close(keys)
        for key in keys:
            self.books[key].closing = self.books[key].assigned

    @rule(keys=st.sets(st.sampled_from(KEYS)))
    def revoke(self, keys: set[TopicPartition]) -> None:
        self.ledger.revoke(keys)
        for key in keys:
            self.let_go(self.books[key])

    @rule()
    def crash(self) -> None:
        self.ledger = Ledger()
        for book in self.books.values():
            self.let_go(book)
            book.gone = []  # epochs of another process never reach this one

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "books"):
            return
        open_books = {key: book for key, book in self.books.items() if book.assigned}
        assert set(self.ledger.partitions()) == set(open_books)
        assert self.ledger.unfinished() == sum(len(book.working) for book in open_books.values())
        for key, book in self.books.items():
            assert self.ledger.unfinished([key]) == len(book.working)
            assert not self.ledger.is_crowded(key)
            for origin in book.working.values():
                assert self.ledger.owns(origin)
                assert self.ledger.is_closing(origin) == book.closing
            for origin in book.gone:
                assert not self.ledger.owns(origin)

    def teardown(self) -> None:
        """A last worker does what is left; then every record was finished exactly once."""
        if not hasattr(self, "books"):
            return
        self.crash()
        for key, book in self.books.items():
            self.assign(key)
            self.deliver(key, len(book.records))
            self.ledger.finish(book.working.values())
            assert sorted(book.finished | set(book.working)) == book.records
            assert not book.finished & set(book.working)
            [commit] = self.ledger.commits([], [key])
            assert commit == Commit(*key, book.records[-1] + 1, "")


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def ledger(committed: int | None = 0, metadata: str | None = None) -> Ledger:
    books = Ledger()
    books.assign("t", 0, committed, metadata)
    return books


def deliver(books: Ledger, *offsets: int) -> list[Origin]:
    origins = [books.deliver("t", 0, offset) for offset in offsets]
    assert None not in origins
    return [origin for origin in origins if origin is not None]


def finish(books: Ledger, *origins: Origin) -> Commit:
    [commit] = books.commits(origins, [("t", 0)])
    books.finish(origins)
    return commit


def test_the_lowest_unfinished_offset_is_committed() -> None:
    books = ledger(5)
    a, b, c = deliver(books, 5, 8, 9)
    assert finish(books, b).offset == 5
    assert finish(books, a).offset == 9
    assert finish(books, c) == Commit("t", 0, 10, "")


def test_a_restart_goes_on_from_the_map() -> None:
    books = ledger(0)
    origins = deliver(books, *range(6))
    commit = finish(books, origins[1], origins[2], origins[4])
    again = ledger(commit.offset, commit.metadata)
    work = [offset for offset in range(7) if again.deliver("t", 0, offset)]
    assert work == [0, 3, 5, 6]


def test_a_map_survives_a_life_that_got_no_further() -> None:
    books = ledger(0)
    origins = deliver(books, *range(4))
    commit = finish(books, origins[3])
    again = ledger(commit.offset, commit.metadata)
    deliver(again, 0)
    assert finish(again) == commit


def test_a_commit_passes_what_the_map_says_is_finished() -> None:
    books = ledger(0)
    origins = deliver(books, 0, 1, 2, 5)
    commit = finish(books, *origins[1:])
    again = ledger(commit.offset, commit.metadata)
    [first] = deliver(again, 0)
    assert not again.is_through(("t", 0))
    assert finish(again, first) == Commit("t", 0, 6, "")
    assert again.position(("t", 0)) == 6


def test_a_commit_passes_runs_that_touch_which_two_lives_have_made() -> None:
    books = ledger(0, encode(0, [(2, 3)], {}))
    _, second = deliver(books, 0, 1)
    commit = finish(books, second)
    assert commit == Commit("t", 0, 0, encode(0, [(1, 3)], {}))
    again = ledger(0, commit.metadata)
    [first] = deliver(again, 0)
    assert finish(again, first) == Commit("t", 0, 3, "")


def test_runs_that_touch_in_a_map_of_an_earlier_version_are_passed_too() -> None:
    books = ledger(0, encode(0, [(1, 2), (2, 3)], {}))
    [first] = deliver(books, 0)
    assert finish(books, first) == Commit("t", 0, 3, "")


def test_what_lies_behind_a_marker_is_passed_once_it_is_read() -> None:
    books = ledger(5, encode(5, [(6, 8)], {}))
    assert finish(books).offset == 5
    assert books.deliver("t", 0, 6) is None
    assert books.is_through(("t", 0))
    assert finish(books) == Commit("t", 0, 8, "")


def test_what_was_read_lies_between_the_opening_and_the_position() -> None:
    books = ledger(5)
    assert books.was_read(("t", 0)) == range(5, 5)
    deliver(books, 7)
    assert books.was_read(("t", 0)) == range(5, 8)
    fresh = ledger(None)
    assert not fresh.was_read(("t", 0))
    deliver(fresh, 3)
    assert fresh.was_read(("t", 0)) == range(3, 4)


def test_nothing_is_committed_before_anything_is_known() -> None:
    books = ledger(None)
    assert books.commits([], [("t", 0)]) == []
    deliver(books, 40)
    assert finish(books).offset == 40


def test_starts_are_counted_over_crashes() -> None:
    commit = Commit("t", 0, 0, "")
    for life in (1, 2, 3):
        books = ledger(commit.offset, commit.metadata)
        [origin] = deliver(books, 0)
        assert books.starts(origin) == life - 1
        assert books.start(origin) == life
        commit = finish(books)


def test_a_finished_record_takes_its_starts_with_it() -> None:
    books = ledger(0)
    a, b = deliver(books, 0, 1)
    books.start(a)
    books.start(b)
    commit = finish(books, b)
    assert commit.metadata == encode(0, [(1, 2)], {0: 1})
    assert finish(books) == commit


def test_a_released_record_keeps_the_starts_of_lives_before() -> None:
    books = ledger(0)
    [origin] = deliver(books, 0)
    books.start(origin)
    crashed = finish(books)
    for started in (False, True):
        books = ledger(crashed.offset, crashed.metadata)
        [origin] = deliver(books, 0)
        if started:
            assert books.start(origin) == 2
        books.release(origin)
        assert finish(books) == crashed


def test_a_released_record_is_not_waited_for_and_not_lost() -> None:
    books = ledger(0)
    a, b = deliver(books, 0, 1)
    books.start(a)
    books.release(a)
    assert not books.owns(a)
    assert books.unfinished() == 1
    commit = finish(books, a, b)
    again = ledger(commit.offset, commit.metadata)
    [origin] = deliver(again, 0)
    assert again.starts(origin) == 0
    assert again.deliver("t", 0, 1) is None


def test_results_of_an_earlier_assignment_change_nothing() -> None:
    books = ledger(0)
    [old] = deliver(books, 0)
    books.assign("t", 0, 0, None)
    [new] = deliver(books, 0)
    assert old != new
    assert finish(books, old).offset == 0
    assert books.owns(new)
    with pytest.raises(ProtocolError):
        books.start(old)
    assert books.is_closing(old)
    assert not books.is_closing(new)


def test_partitions_that_are_not_ours_are_not_committed() -> None:
    books = ledger(0)
    [origin] = deliver(books, 0)
    books.revoke([("t", 0), ("other", 3)])
    assert books.commits([origin], [("t", 0), ("other", 3)]) == []
    books.close([("t", 0)])
    assert not books.is_crowded(("t", 0))


def test_the_position_is_that_of_the_lowest_unfinished_record() -> None:
    books = ledger(3)
    assert books.position(("t", 0)) == 3
    a, b = deliver(books, 4, 6)
    books.finish([b])
    assert books.position(("t", 0)) == 4
    books.finish([a])
    assert books.position(("t", 0)) == 7


def test_a_partition_is_crowded_at_three_quarters_of_the_limit() -> None:
    books = ledger(0)
    origins = deliver(books, *range(4000))
    for count, origin in enumerate(origins[1::2], start=1):
        if count % 25 == 0:
            size = len(finish(books, origin).metadata)
            assert books.is_crowded(("t", 0)) == (size > MAX_BYTES * 0.75)
        else:
            books.finish([origin])
        if books.is_crowded(("t", 0)):
            assert size <= MAX_BYTES * 0.8
            books.finish(origins[::2])
            finish(books)
            assert not books.is_crowded(("t", 0))
            return
    pytest.fail("never crowded")


def test_ten_thousand_records_above_a_stuck_one_are_cheap() -> None:
    books = ledger(0)
    origins = deliver(books, *range(10_000))
    before = time.perf_counter()
    for origin in reversed(origins[1:]):
        books.finish([origin])
    commit = finish(books)
    assert (commit.offset, len(commit.metadata)) == (0, len("v1:") + 12)
    books.finish([origins[0]])
    assert finish(books) == Commit("t", 0, 10_000, "")
    deliver(books, *range(10_000, 20_000))
    assert time.perf_counter() - before < 2


def test_ten_thousand_records_finished_in_order_are_cheap() -> None:
    books = ledger(0)
    origins = deliver(books, *range(10_000))
    before = time.perf_counter()
    for origin in origins:
        books.finish([origin])
    assert time.perf_counter() - before < 2


def test_a_commit_carries_the_highest_leader_epoch_that_was_read() -> None:
    books = Ledger()
    books.assign("t", 0, 5, None, 3)
    assert finish(books).leader_epoch == 3
    for offset, epoch in ((5, 4), (6, 7), (7, None)):
        books.deliver("t", 0, offset, epoch)
        assert finish(books).leader_epoch == (epoch or 7)


def test_starts_of_lost_records_do_not_count_for_those_that_were_written_over_them() -> None:
    books = Ledger()
    books.assign("t", 0, 5, encode(5, [], {5: 1, 6: 2}), 3)
    assert books.starts(deliver_one(books, 5, 3)) == 1
    assert books.starts(deliver_one(books, 6, 4)) == 0


def deliver_one(books: Ledger, offset: int, leader_epoch: int) -> Origin:
    origin = books.deliver("t", 0, offset, leader_epoch)
    assert origin is not None
    return origin


def test_the_epoch_of_an_end_says_nothing_of_what_a_map_knows_above_it() -> None:
    """Offset 5 is finished, says the map, but the log ends at 4 by now: what comes there is another record."""
    books = Ledger()
    books.assign("t", 0, 3, encode(3, [(5, 6)], {}), 3)
    books.reach(("t", 0), 4, 7)
    assert finish(books).leader_epoch == 3
    assert books.deliver("t", 0, 5, 7) is not None


def test_an_epoch_that_is_older_than_what_was_read_is_not_taken() -> None:
    books = Ledger()
    books.assign("t", 0, 5, None, 3)
    books.reach(("t", 0), 6, 2)
    assert finish(books).leader_epoch is None


def test_what_was_written_after_the_map_is_another_record() -> None:
    """The log lost its end, and grew again past the records that were finished."""
    books = Ledger()
    books.assign("t", 0, 5, encode(5, [(6, 9), (10, 12)], {13: 2}), 3)
    assert books.deliver("t", 0, 6, 3) is None
    assert books.deliver("t", 0, 7, 4) is not None
    assert books.deliver("t", 0, 8, 4) is not None
    again = books.deliver("t", 0, 11, 4)
    assert again is not None
    assert books.starts(again) == 0


def test_without_epochs_the_map_holds() -> None:
    for committed, read in ((None, 4), (3, None)):
        books = Ledger()
        books.assign("t", 0, 5, encode(5, [(6, 9)], {}), committed)
        assert books.deliver("t", 0, 7, read) is None


def test_a_partition_is_opened_at_the_end_that_is_left() -> None:
    metadata = encode(5, [(6, 9), (10, 12)], {13: 2})
    books = Ledger()
    books.assign("t", 0, 5, metadata, 3, end=8)
    assert [books.deliver("t", 0, offset) is None for offset in (5, 6, 7, 8, 10)] == [False, True, True, False, False]
    books.assign("t", 0, 5, metadata, 3, end=2)
    assert books.next_offset(("t", 0)) == 2
    assert finish(books) == Commit("t", 0, 2, "", 3)


def test_an_end_that_was_reached_is_committed_behind_what_is_unfinished() -> None:
    key = "t", 0
    books = ledger(5)
    [origin] = deliver(books, 5)
    assert not books.reach(key, 9, 2)
    assert finish(books) == Commit("t", 0, 5, "", 2)
    assert finish(books, origin) == Commit("t", 0, 9, "", 2)
    assert books.reach(key, 12, None)
    assert finish(books) == Commit("t", 0, 12, "")
    assert not books.reach(key, 12, 3)
    assert not books.reach(key, 7, 3)


def test_an_empty_partition_begins_at_its_end() -> None:
    books = ledger(None)
    assert books.reach(("t", 0), 0, 0)
    assert finish(books) == Commit("t", 0, 0, "", 0)
    assert books.was_read(("t", 0)) == range(0)


def test_what_is_not_read_leaves_out_what_the_map_knows() -> None:
    books = ledger(5, encode(5, [(6, 9), (12, 14)], {}))
    assert books.unread(("t", 0), 13) == 4
    assert books.unread(("t", 0), 4) == 0


def test_records_above_one_that_does_not_end_are_bounded() -> None:
    ledger = Ledger()
    ledger.assign("normal", 0, 0, None)
    stuck = ledger.deliver("normal", 0, 0)
    assert stuck is not None
    for offset in range(1, DELIVERED_MAX):
        assert not ledger.is_crowded(("normal", 0))
        origin = ledger.deliver("normal", 0, offset)
        assert origin is not None
        ledger.finish([origin])
    assert ledger.is_crowded(("normal", 0))
    ledger.finish([stuck])
    assert not ledger.is_crowded(("normal", 0))
