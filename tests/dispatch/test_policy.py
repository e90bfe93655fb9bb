"""The dispatcher's choice of a worker: its rules one by one, and what holds for any fleet and any order of events."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.dispatch.policy import BOUNDS_S, LOOK_AHEAD, PATIENCE, Backlog, Choice, Request, Roster, Worker
from worker.job import Lane

MODELS = ("photo", "anime")
SLOWEST_S = 3.0


def request(
    key: int, lane: Lane = Lane.NORMAL, at_s: float = 0.0, loras: str = "", model: str | None = None
) -> Request:
    return Request(key, lane, at_s, loras=loras, model=model)


def chosen(backlog: Backlog, *workers: Worker, now_s: float = 0.0) -> list[tuple[object, str]]:
    choices = backlog.choose(Roster(workers), now_s)
    return [(choice.request.key, choice.worker.name) for choice in choices]


def holding(name: str, urgent: int = 0, high: int = 0, normal: int = 0, **more: object) -> Worker:
    worker = Worker(name, **more)  # type: ignore[arg-type]
    for lane, count in zip(Lane, (urgent, high, normal), strict=True):
        worker.unfinished[lane] = count
        worker.seconds[lane] = count * worker.picture_s
    return worker


def backlog_of(*requests: Request) -> Backlog:
    backlog = Backlog()
    for one in requests:
        backlog.add(one)
    return backlog


def test_urgent_goes_first_and_normal_stays_where_nobody_has_room() -> None:
    backlog = backlog_of(request(1), request(2), request(3), request(4, Lane.URGENT))
    assert chosen(backlog, Worker("a")) == [(4, "a"), (1, "a")]
    assert len(backlog) == 2


def test_an_urgent_request_does_not_mind_the_normal_ones_of_a_worker() -> None:
    backlog = backlog_of(request(1, Lane.URGENT))
    assert chosen(backlog, holding("a", urgent=1), holding("b", normal=2)) == [(1, "b")]


def test_seconds_of_work_count_and_not_requests() -> None:
    fast, slow = holding("h100", normal=1, picture_s=1.0, rows=2), holding("4090", normal=1, picture_s=3.0)
    assert chosen(backlog_of(request(1)), fast, slow) == [(1, "h100")]
    assert chosen(backlog_of(request(1)), Worker("4090", picture_s=3.0), Worker("h100")) == [(1, "h100")]


def test_a_worker_that_has_the_loras_is_preferred_within_a_picture_and_never_for_urgent_ones() -> None:
    def fleet() -> tuple[Worker, Worker]:
        return holding("a", normal=1, loras=frozenset(["x"])), Worker("b")

    assert chosen(backlog_of(request(1, loras="x")), *fleet()) == [(1, "a")]
    a, b = fleet()
    a.unfinished[Lane.URGENT], a.seconds[Lane.URGENT] = 1, 1.0
    assert chosen(backlog_of(request(1, Lane.URGENT, loras="x")), a, b) == [(1, "b")]


def test_loras_that_nobody_asks_for_give_way() -> None:
    backlog = backlog_of(*(request(key, loras="loved") for key in range(3)))
    loved, forgotten = Worker("a", loras=frozenset(["loved"])), Worker("b", loras=frozenset(["forgotten"]))
    assert chosen(backlog, loved)
    loved.unfinished, loved.seconds = [0] * 3, [0.0] * 3
    backlog = backlog_of(request(9, Lane.HIGH, loras="loved"), request(10, Lane.HIGH, loras="new"))
    assert chosen(backlog, loved, forgotten) == [(9, "a"), (10, "b")]


def test_a_request_that_fits_goes_first_until_the_first_one_runs_out_of_patience() -> None:
    backlog = backlog_of(request(1, loras="y"), request(2, loras="x"), request(3, loras="x"), request(4, loras="x"))
    worker = holding("a", normal=1, loras=frozenset(["x"]))
    assert chosen(backlog, worker, now_s=1.0) == [(2, "a")]
    worker.unfinished[Lane.NORMAL] = 1
    assert chosen(backlog, worker, now_s=PATIENCE[Lane.NORMAL] - 0.1) == [(3, "a")]
    worker.unfinished[Lane.NORMAL] = 1
    assert chosen(backlog, worker, now_s=PATIENCE[Lane.NORMAL]) == [(1, "a")]


def test_look_ahead_is_kept_for_requests_that_fit_and_an_idle_worker_is_not() -> None:
    busy, idle = holding("busy", normal=1, loras=frozenset(["x"])), Worker("idle", loras=frozenset(["x"]))
    backlog = backlog_of(request(1, loras="z"), request(2, Lane.HIGH, loras="y"))
    assert chosen(backlog, busy) == [], "a change and a stopped picture can wait"
    assert chosen(backlog, busy, idle) == [(2, "idle")]
    assert chosen(backlog, busy, now_s=PATIENCE[Lane.NORMAL]) == [(1, "busy")]


def test_a_request_without_loras_waits_for_nobody() -> None:
    backlog = backlog_of(request(1, loras="y"), request(2))
    assert chosen(backlog, holding("busy", normal=1)) == [(2, "busy")]


def test_loras_that_were_merged_lately_are_at_hand() -> None:
    one, other = Worker("a"), Worker("b", loras=frozenset(["x"]))
    other.take(request(0, loras="y"))
    other.unfinished[Lane.NORMAL], other.seconds[Lane.NORMAL] = 0, 0.0
    assert chosen(backlog_of(request(1, loras="x")), one, other) == [(1, "b")]


def test_a_picture_that_is_stopped_for_another_is_drawn_on_with_its_own_loras() -> None:
    worker = holding("a", normal=1, loras=frozenset(["x"]))
    worker.take(request(1, Lane.URGENT, loras="y"))
    assert worker.fits("x")
    assert not worker.fits("y")


def test_a_model_that_nobody_has_holds_up_nobody() -> None:
    backlog = backlog_of(*(request(key, model="missing") for key in range(1_000)), request(1_000))
    assert chosen(backlog, Worker("a", models=frozenset(["photo"]))) == [(1_000, "a")]
    assert len(backlog) == 1_000


def test_a_flood_of_urgent_requests_leaves_room_for_normal_ones_that_are_overdue() -> None:
    worker = holding("a", urgent=1 + LOOK_AHEAD)
    backlog = backlog_of(request(1))
    assert chosen(backlog, worker, now_s=BOUNDS_S[Lane.NORMAL]) == []
    assert chosen(backlog, worker, now_s=BOUNDS_S[Lane.NORMAL] + 0.1) == [(1, "a")]


def test_a_draining_worker_gets_nothing_and_a_removed_request_goes_nowhere() -> None:
    backlog = backlog_of(request(1), request(2))
    assert chosen(backlog, Worker("a", accepts=False)) == []
    backlog.remove(request(1))
    backlog.remove(request(77))
    assert chosen(backlog, Worker("a")) == [(2, "a")]


FLEETS = st.lists(
    st.builds(
        Worker,
        name=st.uuids().map(str),
        rows=st.integers(1, 3),
        picture_s=st.sampled_from((0.5, 1.0, SLOWEST_S)),
        models=st.sets(st.sampled_from(MODELS)).map(frozenset),
        loras=st.sampled_from("xyz").map(frozenset),
    ),
    min_size=1,
    max_size=4,
)
ARRIVES = st.tuples(st.sampled_from(Lane), st.sampled_from(("", "x", "y", "z")), st.sampled_from((None, *MODELS)))
# What happens next: a request arrives, the n-th that was sent is finished, a worker drains or comes back, time passes.
EVENTS = st.lists(
    st.one_of(ARRIVES, st.integers(0, 30), st.integers(0, 3).map(str), st.floats(0.1, 20.0)), min_size=1, max_size=60
)


@settings(max_examples=150, deadline=None)
@given(FLEETS, EVENTS)
def test_whatever_happens(workers: list[Worker], events: list[object]) -> None:
    fleet, backlog, now_s = Roster(workers), Backlog(), 0.0
    arrived: dict[int, Request] = {}
    sent: dict[int, Choice] = {}
    finished: set[int] = set()

    def dispatch() -> None:
        for choice in backlog.choose(fleet, now_s):
            key, worker, lane = int(str(choice.request.key)), choice.worker, choice.request.lane
            assert key not in sent, "it was sent twice"
            sent[key] = choice
            assert worker.accepts
            assert worker.draws(choice.request.model)
            assert worker.unfinished[lane] <= worker.rows + LOOK_AHEAD, "it was sent more than its look-ahead"
        left = [one for key, one in arrived.items() if key not in sent]
        assert len(backlog) == len(left), "a request was lost"
        for one in left:
            able = [w for w in workers if w.accepts and w.draws(one.model)]
            assert all(any(w.unfinished) for w in able), "it waits although a worker has nothing to do"
            if now_s - one.arrived_s >= min(PATIENCE[one.lane] * SLOWEST_S, BOUNDS_S[one.lane] / 2):
                assert not any(w.is_idle(one.lane) for w in able), "a worker has nothing of its lane and above"
            if now_s - one.arrived_s > BOUNDS_S[one.lane]:
                own = [w for w in able if not w.unfinished[one.lane]]
                queue = [o for o in left if (o.lane, o.model) == (one.lane, one.model)]
                assert not own or one.key != queue[0].key, "it is overdue, and waits for other lanes"

    for event in events:
        if isinstance(event, tuple):
            key = len(arrived)
            arrived[key] = Request(key, event[0], now_s, loras=event[1], model=event[2])
            backlog.add(arrived[key])
        elif isinstance(event, float):
            now_s += event
        elif isinstance(event, str):
            worker = workers[int(event) % len(workers)]
            worker.accepts = not worker.accepts
            fleet.put(worker)
        elif running := [key for key in sent if key not in finished]:
            key = running[int(str(event)) % len(running)]
            finished.add(key)
            choice = sent[key]
            choice.worker.unfinished[choice.request.lane] -= 1
            choice.worker.seconds[choice.request.lane] -= choice.worker.picture_s
            fleet.put(choice.worker)
        dispatch()
    for of in itertools.product(Lane, (None, *MODELS)):
        known, anew = (roster.ranking(*of, owed=False) for roster in (fleet, Roster(workers)))
        assert (known.ranks, known.by_loras) == (anew.ranks, anew.by_loras), "a change was overlooked"
    # Once everybody is there and finishes what it has, nothing that some worker can draw is left.
    for worker in workers:
        worker.accepts = True
        fleet.put(worker)
    dispatch()
    while running := [key for key in sent if key not in finished]:
        for key in running:
            finished.add(key)
            sent[key].worker.unfinished[sent[key].request.lane] -= 1
            sent[key].worker.seconds[sent[key].request.lane] -= sent[key].worker.picture_s
            fleet.put(sent[key].worker)
        dispatch()
    assert all(not any(w.draws(arrived[key].model) for w in workers) for key in arrived.keys() - sent.keys())
