"""Whose start is recorded next: by room and lane, and so that no job is failed for what its neighbours did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.events.types import GenerationRequest
from worker.intake.start_queue import OVERTAKEN_MAX, StartQueue, is_lone
from worker.job import Job, Lane, Origin

BOUNDS_S = (1.0, 2.0, 5.0)
NOW = 1000.0
URGENT, HIGH, NORMAL = Lane


def job(number: int, lane: Lane = NORMAL, *, received_at: float = NOW, expires_at: float | None = None) -> Job:
    return Job(
        request=GenerationRequest(job_id=f"{number}", girl_id="g", user_id=1, prompt="p"),
        lane=lane,
        origin=Origin(lane.label, 0, number, 1),
        seed=1,
        loras=(),
        prompt="p",
        negative_prompt=None,
        attempt=1,
        requested_at=received_at,
        received_at=received_at,
        expires_at=expires_at,
    )


def queue(*jobs: Job, room: int = 2, alone: tuple[Job, ...] = ()) -> StartQueue:
    made = StartQueue(BOUNDS_S, (room, room, room))
    for each in jobs:
        made.add(each, alone=each in alone)
    return made


class TestRoom:
    def test_nothing_is_started_before_the_engine_has_told_its_room(self) -> None:
        assert queue(job(1), room=0).next(NOW + 60) == []

    def test_no_more_are_started_than_the_engine_has_room_for(self) -> None:
        one, two, three = (job(n) for n in range(3))
        starts = queue(one, two, three)
        assert starts.next(NOW) == [one, two]
        assert starts.next(NOW) == []
        assert starts.waiting() == [three]

    def test_a_place_is_free_once_the_picture_is_drawn(self) -> None:
        one, two = job(1), job(2)
        starts = queue(one, two, room=1)
        starts.next(NOW)
        starts.drawn(one.origin)
        assert starts.next(NOW) == [two]

    def test_the_most_urgent_go_first_and_first_come_within_a_lane(self) -> None:
        jobs = [job(1), job(2), job(3, HIGH), job(4, URGENT), job(5, URGENT)]
        assert queue(*jobs, room=4).next(NOW) == [jobs[3], jobs[4], jobs[2], jobs[0]]

    def test_what_runs_in_lower_lanes_takes_no_place_of_an_urgent_job(self) -> None:
        starts = queue(job(1), job(2))
        starts.next(NOW)
        urgent = job(3, URGENT)
        starts.add(urgent, alone=False)
        assert starts.next(NOW) == [urgent]

    def test_the_first_of_a_lane_that_waits_beyond_its_bound_is_started(self) -> None:
        starts = queue(job(1, URGENT), job(2, URGENT), first := job(3), job(4))
        assert first not in starts.next(NOW + BOUNDS_S[NORMAL])
        assert starts.next(NOW + BOUNDS_S[NORMAL] + 0.1) == [first]
        assert starts.next(NOW + 60) == []

    def test_a_job_that_was_withdrawn_is_not_started(self) -> None:
        one = job(1)
        starts = queue(one)
        assert starts.withdraw(one.origin)
        assert not starts.withdraw(one.origin)
        assert starts.next(NOW) == []

    def test_a_started_job_cannot_be_withdrawn(self) -> None:
        one = job(1)
        starts = queue(one)
        starts.next(NOW)
        assert not starts.withdraw(one.origin)

    def test_only_waiting_jobs_expire_here(self) -> None:
        started, late, patient = (job(n, expires_at=NOW + s) for n, s in enumerate((1, 1, 9)))
        starts = queue(started, late, patient, room=1)
        starts.next(NOW)
        assert starts.expired(NOW + 1) == []
        assert starts.expired(NOW + 2) == [late]


class TestAlone:
    def test_nothing_runs_beside_it(self) -> None:
        suspect, other = job(1), job(2)
        starts = queue(suspect, other, alone=(suspect,))
        assert starts.next(NOW) == [suspect]
        urgent = job(3, URGENT)
        starts.add(urgent, alone=False)
        assert starts.next(NOW + 60) == []
        # It may still take the process down while its picture is encoded.
        starts.drawn(suspect.origin)
        assert starts.next(NOW + 60) == []
        starts.leave(suspect.origin)
        assert starts.next(NOW) == [urgent, other]

    def test_it_waits_for_those_before_it_and_holds_up_those_behind_it(self) -> None:
        before, suspect, behind = (job(n) for n in range(3))
        starts = queue(before, suspect, behind, room=3, alone=(suspect,))
        assert starts.next(NOW) == [before]
        starts.drawn(before.origin)
        assert starts.next(NOW) == []
        starts.leave(before.origin)
        assert starts.next(NOW) == [suspect]

    def test_several_go_by_lane(self) -> None:
        suspects = (job(1), job(2, HIGH), job(3, URGENT))
        starts, order = queue(*suspects, alone=suspects), []
        while ready := starts.next(NOW):
            order += ready
            starts.leave(ready[0].origin)
        assert order == [suspects[2], suspects[1], suspects[0]]

    def test_it_is_not_overtaken_for_ever(self) -> None:
        suspect = job(0)
        starts = queue(suspect, room=2, alone=(suspect,))
        urgent = [job(n, URGENT) for n in range(1, 100)]
        starts.add(urgent[0], alone=False)
        done: list[Job] = []
        for number, ready in enumerate(urgent):
            starts.add(urgent[number + 1], alone=False)
            done += starts.next(NOW)
            if suspect in done:
                break
            starts.leave(ready.origin)
        assert len(done) == OVERTAKEN_MAX + 1

    @pytest.mark.parametrize(("limit", "lone_from"), [(1, None), (2, 1), (3, 2), (4, 2), (1000, 2)])
    def test_who_is(self, limit: int, lone_from: int | None) -> None:
        lone = [starts for starts in range(limit) if is_lone(starts, limit)]
        assert lone == ([] if lone_from is None else list(range(lone_from, limit)))


@dataclass
class Fleet:
    """One worker after another works on the same jobs; the guilty ones take their process down at some moment."""

    rng: Random
    limit: int
    slots: int
    lanes: list[Lane]
    guilty: set[int]
    kills: int
    starts: Counter[int] = field(default_factory=Counter)
    ended: dict[int, str] = field(default_factory=dict)
    crashes: int = 0
    killed_alone: set[int] = field(default_factory=set)

    def run(self) -> None:
        while len(self.ended) < len(self.lanes):
            self._live()

    def _live(self) -> None:
        """One process, until it dies or everything has ended."""
        coming = [job(n, lane) for n, lane in enumerate(self.lanes) if n not in self.ended]
        self.rng.shuffle(coming)
        starts = StartQueue(BOUNDS_S, (self.slots, self.slots, self.slots))
        running: dict[int, Job] = {}
        now = NOW
        while coming or running or starts.waiting():
            now += self.rng.random()
            if coming and self.rng.random() < 0.7:
                self._admit(starts, coming.pop())
            for each in starts.next(now):
                number = each.origin.offset
                self.starts[number] += 1
                running[number] = each
            lone = [n for n in running if is_lone(self.starts[n] - 1, self.limit)]
            assert not lone or len(running) == 1, "a last start beside others"
            assert running or coming or not starts.waiting(), "nothing runs, and what waits is not started"
            if running and self._dies(starts, running):
                return

    def _admit(self, starts: StartQueue, one: Job) -> None:
        number = one.origin.offset
        if self.starts[number] >= self.limit:
            self.ended[number] = "crash_loop"
        else:
            starts.add(one, alone=is_lone(self.starts[number], self.limit))

    def _dies(self, starts: StartQueue, running: dict[int, Job]) -> bool:
        """Something happens to one of the running jobs; whether it was the end of the process."""
        number = self.rng.choice(list(running))
        if self.kills and self.rng.random() < 0.1:
            self.kills -= 1
            self.killed_alone |= {n for n in running if self.starts[n] == self.limit}
            return True
        if self.rng.random() < 0.3:
            starts.drawn(running[number].origin)
        elif number in self.guilty:
            self.crashes += 1
            return True
        else:
            self.ended[number] = "completed"
            starts.leave(running.pop(number).origin)
        return False


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    limit=st.integers(2, 5),
    slots=st.integers(1, 5),
    jobs=st.lists(st.tuples(st.sampled_from(Lane), st.booleans()), min_size=1, max_size=14),
    kills=st.integers(0, 4),
)
def test_each_guilty_job_is_given_up_after_its_last_start_and_no_innocent_one_is(
    seed: int, limit: int, slots: int, jobs: list[tuple[Lane, bool]], kills: int
) -> None:
    guilty = {number for number, (_, is_guilty) in enumerate(jobs) if is_guilty}
    fleet = Fleet(Random(seed), limit, slots, [lane for lane, _ in jobs], guilty, kills)
    fleet.run()
    # Nothing tells a kill from outside from a crash, where it comes while a job runs alone for the last time.
    excused = fleet.killed_alone - guilty
    failed = {number for number, outcome in fleet.ended.items() if outcome == "crash_loop"}
    assert guilty <= failed <= guilty | excused
    assert all(fleet.starts[number] == limit for number in failed)
    assert fleet.crashes <= limit * len(guilty)


class TestExpiry:
    def test_a_job_is_told_as_expired_until_it_is_withdrawn_in_the_order_of_lanes(self) -> None:
        late, soon = job(1, NORMAL, expires_at=NOW + 1), job(2, URGENT, expires_at=NOW + 2)
        starts = queue(late, soon, job(3), job(4, expires_at=NOW + 9))
        assert starts.expired(NOW + 1) == []
        assert starts.expired(NOW + 3) == starts.expired(NOW + 3) == [soon, late]
        starts.withdraw(soon.origin)
        assert starts.expired(NOW + 3) == [late]

    def test_one_that_was_started_or_came_again_does_not_expire_by_its_old_time(self) -> None:
        one = job(1, expires_at=NOW + 1)
        starts = queue(one)
        starts.next(NOW)
        assert starts.expired(NOW + 2) == []
        starts.leave(one.origin)
        starts.add(job(1, expires_at=NOW + 5), alone=False)
        assert starts.expired(NOW + 2) == []

    def test_jobs_that_have_left_long_before_they_expire_are_not_kept(self) -> None:
        starts = queue(room=0)
        for number in range(1_000):
            each = job(number, expires_at=NOW + 1e6)
            starts.add(each, alone=False)
            starts.leave(each.origin)
        assert len(starts._expiring) < 100
