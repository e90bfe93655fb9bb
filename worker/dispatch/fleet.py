"""What a dispatcher believes of the workers: their last reports, and what it has sent since. Pure.

A report says what a worker has read (`position`) of each of its partitions, and what of that is unfinished. Whatever
was written at or above that position is still on its way, and counts as work of the worker to whose partition it was
sent. So a slow report never makes room that isn't there, and a partition that moves takes its requests along.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.dispatch.policy import Request, Worker
from worker.events.types import WorkerReport
from worker.job import Lane

# A worker that says nothing for so long is sent nothing more.
SILENT_S = 3.0
# A request whose offset is not known counts as on its way for so long: the answer to a commit was lost.
UNPLACED_S = 3.0
# Reports of workers that are long gone are forgotten.
FORGOTTEN_S = 600.0

Place = tuple[str, int]


@dataclass(slots=True)
class _Sent:
    """A request on its way; `offset` is None until it is durable, `durable_s` when its offset stayed unknown."""

    request: Request
    place: Place
    offset: int | None = None
    durable_s: float | None = None


@dataclass(slots=True)
class _Known:
    report: WorkerReport
    heard_s: float


@dataclass(slots=True)
class Fleet:
    """One for a dispatcher; times are on its own steady clock, so that no worker's clock matters.

    Args:
        topics: the work topics by lane.
    """

    topics: dict[Lane, str]
    _known: dict[str, _Known] = field(default_factory=dict)
    _sent: dict[object, _Sent] = field(default_factory=dict)

    def hear(self, report: WorkerReport, now_s: float) -> None:
        """Take a report that was written just now. An older one of the same session is ignored."""
        known = self._known.get(report.worker_id)
        if known is not None:
            before = known.report
            if before.session_id == report.session_id and before.sequence >= report.sequence:
                return
        self._known[report.worker_id] = _Known(report, now_s)
        positions = {(place.topic, place.partition): place.position for place in report.partitions}
        for key, sent in list(self._sent.items()):
            if sent.offset is not None and sent.offset < positions.get(sent.place, -1):
                del self._sent[key]

    def send(self, request: Request, place: Place) -> None:
        """A request is about to be written to a partition."""
        self._sent[request.key] = _Sent(request, place)

    def written(self, key: object, offset: int) -> None:
        """It is durable there."""
        sent = self._sent.get(key)
        if sent is not None:
            sent.offset = offset

    def durable(self, key: object, now_s: float) -> None:
        """It is durable; its offset may have stayed unknown."""
        sent = self._sent.get(key)
        if sent is not None and sent.offset is None:
            sent.durable_s = now_s

    def unsend(self, key: object) -> None:
        """It was not written: its record has another owner by now."""
        self._sent.pop(key, None)

    def workers(self, now_s: float) -> dict[str, Worker]:
        """The workers that may be sent something, by id, with what is on its way to them."""
        self._forget(now_s)
        found = {
            name: _worker(known.report)
            for name, known in self._known.items()
            if now_s - known.heard_s < SILENT_S and known.report.accepts
        }
        owners = {
            (place.topic, place.partition): found[name]
            for name in found
            for place in self._known[name].report.partitions
        }
        for sent in self._sent.values():
            owner = owners.get(sent.place)
            if owner is not None:
                owner.take(sent.request)
        # Without a partition of a lane there is no way to send it something of that lane.
        for name, worker in found.items():
            lanes = {lane for lane in Lane if self._places(name, lane)}
            worker.lanes = frozenset(lanes)
        return found

    def place_for(self, worker_id: str, lane: Lane) -> Place:
        """The worker's partition of a lane with the fewest requests on their way."""
        load = [sent.place for sent in self._sent.values()]
        return min(self._places(worker_id, lane), key=lambda place: (load.count(place), place))

    def silent(self, now_s: float) -> list[str]:
        """Workers that took work and have stopped to report without a farewell."""
        return [
            name for name, known in self._known.items() if known.report.accepts and now_s - known.heard_s >= SILENT_S
        ]

    @property
    def on_the_way(self) -> int:
        """Requests that no report has shown yet."""
        return len(self._sent)

    def _places(self, worker_id: str, lane: Lane) -> list[Place]:
        report = self._known[worker_id].report
        return [(p.topic, p.partition) for p in report.partitions if p.topic == self.topics[lane]]

    def _forget(self, now_s: float) -> None:
        for key, sent in list(self._sent.items()):
            if sent.durable_s is not None and now_s - sent.durable_s >= UNPLACED_S:
                del self._sent[key]
        for name, known in list(self._known.items()):
            if now_s - known.heard_s >= FORGOTTEN_S:
                del self._known[name]


def _worker(report: WorkerReport) -> Worker:
    worker = Worker(
        report.worker_id,
        rows=max(1, report.rows),
        picture_s=max(1e-3, report.picture_seconds),
        models=frozenset(report.models),
        loras=frozenset(report.loras),
        accepts=report.accepts,
    )
    for work in report.work:
        lane = next((lane for lane in Lane if lane.label == work.priority.value), None)
        if lane is not None:
            worker.unfinished[lane] += max(0, work.requests)
            worker.seconds[lane] += max(0.0, work.seconds)
    return worker
