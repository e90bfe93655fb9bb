"""What a dispatcher believes of the workers: their last reports, and what it has sent since. Pure.

A report says what a worker has read (`position`) of each of its partitions, and what of that is unfinished. Whatever
was written at or above that position is still on its way, and counts as work of the worker to whose partition it was
sent. So a slow report never makes room that isn't there, and a partition that moves takes its requests along.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from worker.dispatch.roster import Request, Roster, Worker, remembered
from worker.events.types import WorkerReport
from worker.job import Lane

# A worker that says nothing for so long is sent nothing more.
SILENT_S = 3.0
# A request whose offset is not known counts as on its way for so long: the answer to a commit was lost.
UNPLACED_S = 3.0
# Reports of workers that are long gone are forgotten.
FORGOTTEN_S = 600.0

Place = tuple[str, int]
_LANES = {lane.label: lane for lane in Lane}


@dataclass(slots=True)
class _Sent:
    """A request on its way; `offset` is None until it is durable, and longer where it stays unknown."""

    request: Request
    place: Place
    offset: int | None = None


@dataclass(slots=True)
class _Known:
    """A worker's last report; `recent` are the LoRA sets of those before."""

    report: WorkerReport
    heard_s: float
    recent: tuple[str, ...] = ()


@dataclass(slots=True)
class Fleet:
    """One for a dispatcher; times are on its own steady clock, so that no worker's clock matters.

    A report or a request changes one worker, and only that one is looked at again: a fleet has thousands.

    Args:
        topics: the work topics by lane.
    """

    topics: dict[Lane, str]
    # In the order in which they were last heard, as `_talking`: those that may be sent something.
    _known: OrderedDict[str, _Known] = field(default_factory=OrderedDict)
    _talking: OrderedDict[str, float] = field(default_factory=OrderedDict)
    # Who has said last that a partition is his.
    _owners: dict[Place, str] = field(default_factory=dict)
    _sent: dict[object, _Sent] = field(default_factory=dict)
    _sent_to: dict[Place, dict[object, _Sent]] = field(default_factory=dict)
    # Since when requests are durable at an offset that is not known.
    _unplaced: OrderedDict[object, float] = field(default_factory=OrderedDict)
    _roster: Roster = field(default_factory=Roster)
    # Workers that the roster has an old picture of.
    _changed: set[str] = field(default_factory=set)

    def hear(self, report: WorkerReport, now_s: float) -> None:
        """Take a report that was written just now. An older one of the same session is ignored."""
        name = report.worker_id
        recent: tuple[str, ...] = ()
        known = self._known.get(name)
        if known is not None and known.report.session_id == report.session_id:
            if known.report.sequence >= report.sequence:
                return
            recent = remembered(known.recent, known.report.loras)
        self._disown(name)
        self._known[name] = _Known(report, now_s, recent)
        self._known.move_to_end(name)
        self._talking.pop(name, None)
        if report.accepts:
            self._talking[name] = now_s
        for partition in report.partitions:
            place = partition.topic, partition.partition
            self._change_owner_of(place)
            self._owners[place] = name
            for key, sent in list(self._sent_to.get(place, {}).items()):
                if sent.offset is not None and sent.offset < partition.position:
                    self._forget(key)
        self._changed.add(name)

    def send(self, request: Request, place: Place) -> None:
        """A request is about to be written to a partition."""
        sent = self._sent[request.key] = _Sent(request, place)
        self._sent_to.setdefault(place, {})[request.key] = sent
        self._change_owner_of(place)

    def written(self, key: object, offset: int) -> None:
        """It is durable there."""
        sent = self._sent.get(key)
        if sent is not None:
            sent.offset = offset

    def durable(self, key: object, now_s: float) -> None:
        """It is durable; its offset may have stayed unknown."""
        sent = self._sent.get(key)
        if sent is not None and sent.offset is None:
            self._unplaced[key] = now_s

    def unsend(self, key: object) -> None:
        """It was not written: its record has another owner by now."""
        self._forget(key)

    def workers(self, now_s: float) -> Roster:
        """The workers that may be sent something, with what is on its way to them."""
        self._expire(now_s)
        for name in self._changed:
            if name in self._talking:
                self._roster.put(self._worker(name))
            else:
                self._roster.remove(name)
        self._changed.clear()
        return self._roster

    def place_for(self, worker_id: str, lane: Lane) -> Place:
        """The worker's partition of a lane with the fewest requests on their way."""
        places = self._places(worker_id, lane)
        return min(places, key=lambda place: (len(self._sent_to.get(place, ())), place))

    def silent(self, now_s: float) -> list[str]:
        """Workers that took work and have stopped to report without a farewell."""
        return [
            name for name, known in self._known.items() if known.report.accepts and now_s - known.heard_s >= SILENT_S
        ]

    def refusing(self, now_s: float) -> int:
        """How many workers report and take nothing: they drain, or are not ready."""
        return sum(not known.report.accepts and now_s - known.heard_s < SILENT_S for known in self._known.values())

    @property
    def on_the_way(self) -> int:
        """Requests that no report has shown yet."""
        return len(self._sent)

    def _places(self, worker_id: str, lane: Lane) -> list[Place]:
        report = self._known[worker_id].report
        return [(p.topic, p.partition) for p in report.partitions if p.topic == self.topics[lane]]

    def _worker(self, name: str) -> Worker:
        known = self._known[name]
        worker = _reported(known.report, known.recent)
        # Without a partition of a lane there is no way to send it something of that lane.
        worker.lanes = frozenset(lane for lane in Lane if self._places(name, lane))
        for partition in known.report.partitions:
            place = partition.topic, partition.partition
            if self._owners.get(place) == name:
                for sent in self._sent_to.get(place, {}).values():
                    worker.take(sent.request)
        return worker

    def _change_owner_of(self, place: Place) -> None:
        owner = self._owners.get(place)
        if owner is not None:
            self._changed.add(owner)

    def _disown(self, name: str) -> None:
        known = self._known.get(name)
        for partition in () if known is None else known.report.partitions:
            place = partition.topic, partition.partition
            if self._owners.get(place) == name:
                del self._owners[place]

    def _forget(self, key: object) -> None:
        sent = self._sent.pop(key, None)
        self._unplaced.pop(key, None)
        if sent is None:
            return
        there = self._sent_to[sent.place]
        del there[key]
        if not there:
            del self._sent_to[sent.place]
        self._change_owner_of(sent.place)

    def _expire(self, now_s: float) -> None:
        """Forget what was said or sent too long ago; the oldest are first."""
        while self._unplaced and now_s - next(iter(self._unplaced.values())) >= UNPLACED_S:
            self._forget(next(iter(self._unplaced)))
        while self._talking and now_s - next(iter(self._talking.values())) >= SILENT_S:
            self._changed.add(self._talking.popitem(last=False)[0])
        while self._known and now_s - next(iter(self._known.values())).heard_s >= FORGOTTEN_S:
            name = next(iter(self._known))
            self._disown(name)
            del self._known[name]


def _reported(report: WorkerReport, recent: tuple[str, ...]) -> Worker:
    worker = Worker(
        report.worker_id,
        rows=max(1, report.rows),
        picture_s=max(1e-3, report.picture_seconds),
        models=frozenset(report.models),
        loras=frozenset(report.loras),
        recent=recent,
        accepts=report.accepts,
    )
    for work in report.work:
        lane = _LANES.get(work.priority.value)
        if lane is not None:
            worker.unfinished[lane] += max(0, work.requests)
            worker.seconds[lane] += max(0.0, work.seconds)
    return worker
