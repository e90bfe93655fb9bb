"""The workers that may be sent something, ranked, so that a choice looks at a few of them and not at all. Pure.

A fleet has thousands of workers, and each of their reports changes one. So the roster keeps, for each question that
the policy asks, the workers with room in the order in which they would begin a request.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from worker.job import Lane

LOOK_AHEAD = 1
# How many LoRA sets a worker is taken to have in its cache, beside the one that is merged.
RECENT = 8


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the policy sees it.

    Attributes:
        key: what the caller knows it by.
        lane: its lane.
        arrived_s: when the dispatcher read it, on the dispatcher's clock.
        pictures: its work as a multiple of a standard picture's.
        loras: name of its LoRA set; empty for none, which every worker can draw at no cost.
        model: the model that it must be drawn with; None for whichever a worker has.
    """

    key: Hashable
    lane: Lane
    arrived_s: float
    pictures: float = 1.0
    loras: str = ""
    model: str | None = None


@dataclass(slots=True)
class Worker:
    """What is known of a worker: its last report, and what has been sent to it since.

    Attributes:
        name: its id.
        rows: how many pictures it draws at a time.
        picture_s: seconds that it takes for a standard picture.
        models: what it has loaded.
        loras: the LoRA sets that it has merged, or will have when what it was sent is drawn.
        recent: sets that it had merged before, the latest last; it need not read their files again.
        accepts: whether anything may be sent; false while it drains.
        lanes: those that it has a partition of.
        unfinished: requests by lane that it has not finished.
        seconds: seconds of work by lane that these are.
    """

    name: str
    rows: int = 1
    picture_s: float = 1.0
    models: frozenset[str] = frozenset()
    loras: frozenset[str] = frozenset()
    recent: tuple[str, ...] = ()
    accepts: bool = True
    lanes: frozenset[Lane] = frozenset(Lane)
    unfinished: list[int] = field(default_factory=lambda: [0] * len(Lane))
    seconds: list[float] = field(default_factory=lambda: [0.0] * len(Lane))

    def has_room(self, lane: Lane, *, owed: bool = False) -> bool:
        """Whether it may be sent one more request of `lane`; `owed` leaves the lanes above out of account."""
        held = self.unfinished[lane] if owed else sum(self.unfinished[: lane + 1])
        return self.accepts and lane in self.lanes and held < self.rows + LOOK_AHEAD

    def is_idle(self, lane: Lane) -> bool:
        """Whether it would begin a new request of `lane` at once: it has nothing of that lane and those above."""
        return not any(self.unfinished[: lane + 1])

    def ahead_s(self, lane: Lane) -> float:
        """Seconds until it would begin a new request of `lane`: its work of that lane and those above."""
        return sum(self.seconds[: lane + 1]) / self.rows

    def draws(self, model: str | None) -> bool:
        """Whether it has the model that a request names."""
        return model is None or model in self.models

    def fits(self, loras: str) -> bool:
        """Whether it can draw a set without changing its LoRAs."""
        return not loras or loras in self.loras

    def take(self, request: Request) -> None:
        """Count a request that is sent to it."""
        self.unfinished[request.lane] += 1
        self.seconds[request.lane] += request.pictures * self.picture_s
        # What it draws last is what it will have merged: it goes back to the lanes below.
        is_last = not any(self.unfinished[request.lane + 1 :])
        if is_last and request.loras and request.loras not in self.loras:
            self.recent = remembered(self.recent, self.loras)
            self.loras = frozenset((request.loras,))


def remembered(recent: tuple[str, ...], loras: Iterable[str]) -> tuple[str, ...]:
    """The sets that a worker had merged, now that it has merged `loras` too."""
    latest = dict.fromkeys(loras)
    return (*(known for known in recent if known not in latest), *latest)[-RECENT:]


# Seconds ahead, seconds of any lane, seconds of a picture, name: in this order workers are asked.
Rank = tuple[float, float, float, str]


@dataclass(slots=True)
class Ranking:
    """Workers that have a model and room for a lane, all of them and by the LoRA set that they have merged."""

    lane: Lane
    owed: bool
    model: str | None
    ranks: list[Rank] = field(default_factory=list)
    by_loras: dict[str, list[Rank]] = field(default_factory=dict)
    _placed: dict[str, tuple[Rank, frozenset[str]]] = field(default_factory=dict)

    def put(self, worker: Worker) -> None:
        """Place a worker anew, if it has room."""
        self.drop(worker.name)
        if not worker.has_room(self.lane, owed=self.owed) or not worker.draws(self.model):
            return
        # Rounded, for sums of fractions differ in their last bits.
        rank = round(worker.ahead_s(self.lane), 3), round(sum(worker.seconds), 3), worker.picture_s, worker.name
        self._placed[worker.name] = rank, worker.loras
        insort(self.ranks, rank)
        for loras in worker.loras:
            insort(self.by_loras.setdefault(loras, []), rank)

    def drop(self, name: str) -> None:
        """Take a worker out, if it is there."""
        placed = self._placed.pop(name, None)
        if placed is None:
            return
        rank, sets = placed
        del self.ranks[bisect_left(self.ranks, rank)]
        for loras in sets:
            holders = self.by_loras[loras]
            del holders[bisect_left(holders, rank)]
            if not holders:
                del self.by_loras[loras]

    def first(self) -> Rank | None:
        """The worker that would begin a request first; None where nobody has room."""
        return self.ranks[0] if self.ranks else None

    def fitting(self, loras: str, limit_s: float) -> Rank | None:
        """The first worker that can draw a set without a change and would begin it within `limit_s`."""
        holders = self.by_loras.get(loras) if loras else self.ranks
        return holders[0] if holders and holders[0][0] <= limit_s else None

    def within(self, limit_s: float, most: int) -> Iterator[Rank]:
        """The workers that would begin a request within `limit_s`, the first `most` of them."""
        for rank in islice(self.ranks, most):
            if rank[0] > limit_s:
                return
            yield rank


class Roster:
    """Workers by name, and their rankings, each of which is made when it is first asked for."""

    def __init__(self, workers: Iterable[Worker] = ()) -> None:
        self._workers = {worker.name: worker for worker in workers}
        self._rankings: dict[tuple[Lane, bool, str | None], Ranking] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def __contains__(self, name: object) -> bool:
        return name in self._workers

    def __getitem__(self, name: str) -> Worker:
        return self._workers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._workers)

    def put(self, worker: Worker) -> None:
        """A worker is new, or something of it has changed."""
        self._workers[worker.name] = worker
        for ranking in self._rankings.values():
            ranking.put(worker)

    def remove(self, name: str) -> None:
        """A worker is not sent anything more; unknown ones are ignored."""
        if self._workers.pop(name, None) is not None:
            for ranking in self._rankings.values():
                ranking.drop(name)

    def ranking(self, lane: Lane, model: str | None, *, owed: bool) -> Ranking:
        """The workers with room for a request of `lane` that names `model`."""
        # Nothing is above the first lane, so owed requests of it find the same room.
        key = lane, owed and lane is not Lane.URGENT, model
        if key not in self._rankings:
            self._rankings[key] = ranking = Ranking(*key[:2], model)
            for worker in self._workers.values():
                ranking.put(worker)
        return self._rankings[key]
