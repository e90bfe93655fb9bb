"""The invariants of a simulation, checked whenever something becomes durable and when all jobs have ended."""

from __future__ import annotations

from collections.abc import Iterable

from tests.sim.broker import Broker, Entry, Transaction
from tests.sim.group import Key, Member
from tests.sim.requests import CODEC, TOPICS, Kind, Request, number_of
from tests.sim.store import Bucket
from worker.delivery.keys import object_keys
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationStatus
from worker.intake.offset_metadata import CompletionMap, decode, encode
from worker.job import Job

OUTCOME_TOPICS = (TOPICS.completed, TOPICS.failed, TOPICS.dead_letter)


class Violation(AssertionError):
    """An invariant is broken."""


class Audit:
    """Knows every request record and follows it to its one outcome."""

    def __init__(self, bucket: Bucket, crash_loop_limit: int) -> None:
        self.requests: dict[int, Request] = {}
        self.broker: Broker
        self._bucket = bucket
        self._crash_loop_limit = crash_loop_limit
        # The highest durable count of starts that each request ever had.
        self._expected: dict[int, str] = {}
        self.most_starts: dict[int, int] = {}

    def at(self, key: Key) -> list[Request]:
        return [request for request in self.requests.values() if (request.topic, request.partition) == key]

    def on_positions(self, transaction: Transaction, member: Member) -> None:
        """Offsets and results of a transaction are of partitions that its sender owns at that moment."""
        for key in [*transaction.positions, *map(self._origin, _outcomes(transaction))]:
            _check(key in member.owned, f"{member.id} publishes for {key}, which is not its own")

    def on_commit(self, transaction: Transaction) -> None:
        """Exactly the records that this transaction finishes get their outcome in it."""
        finished: set[int] = set()
        for key, (offset, metadata) in transaction.positions.items():
            finished |= self._newly_finished(key, offset, metadata)
        answered = [number_of(entry.headers) for entry in _outcomes(transaction)]
        for number in answered:
            _check(answered.count(number) == 1, f"request {number} is answered twice in one transaction")
            _check(not self.requests[number].outcomes, f"request {number} is answered again")
        _check(set(answered) == finished, f"answers {sorted(answered)}, but the offsets finish {sorted(finished)}")
        for entry in _outcomes(transaction):
            self.requests[number_of(entry.headers)].outcomes.append(self._outcome(entry))

    def on_run(self, job: Job, owner: Member | None) -> None:
        """A job touches the GPU only with its start durable, and not when it is finished."""
        request = self.requests[number_of([("traceparent", job.headers["traceparent"].encode())])]
        request.runs += 1
        if owner is None or (request.topic, request.partition) not in owner.owned:
            return  # out of its session, it cannot know
        _check(not request.outcomes, f"request {request.number} runs again though it is finished")
        starts = self._books((request.topic, request.partition)).starts.get(request.offset, 0)
        _check(starts == job.attempt, f"request {request.number} runs as attempt {job.attempt}, durable are {starts}")

    def expect(self, request: Request, outcome: str) -> None:
        """This request ends in another way than others of its kind."""
        self._expected[request.number] = outcome

    def finish(self) -> None:
        """When all is quiet."""
        for request in self.requests.values():
            _check(len(request.outcomes) == 1, f"{request} has not exactly one outcome")
            self._check_kind(request)
        seen = [number_of(entry.headers) for topic in OUTCOME_TOPICS for entry in self.broker.topic(topic)]
        _check(sorted(seen) == sorted(self.requests), f"read_committed sees outcomes of {sorted(seen)}")
        for key in {(request.topic, request.partition) for request in self.requests.values()}:
            offset, _ = self.broker.positions[key]
            for request in self.at(key):
                done = request.offset < offset or request.offset in self._books(key)
                _check(done, f"{key} stands at {offset}, request {request.number} is not finished there")
            _check(not self._books(key).starts, f"{key} keeps starts of finished records")
        self._check_statuses()

    def rewind(self) -> None:
        """Commit the first offset of each partition, with a map that says that all of it is finished."""
        for key in {(request.topic, request.partition) for request in self.requests.values()}:
            offsets = [request.offset for request in self.at(key)]
            first, end = min(offsets), max(offsets) + 1
            self.broker.positions[key] = first, encode(first, [(first, end)], {})

    def lagging(self) -> list[Request]:
        """Requests that the committed offsets have not passed."""
        return [r for r in self.requests.values() if r.offset >= self.broker.positions[r.topic, r.partition][0]]

    def unanswered(self) -> list[Request]:
        return [request for request in self.requests.values() if not request.outcomes]

    def _newly_finished(self, key: Key, offset: int, metadata: str) -> set[int]:
        old, before = self.broker.positions.get(key, (0, ""))[0], self._books(key)
        _check(offset >= old, f"{key} goes back from {old} to {offset}")
        _check(offset <= self.broker.log(key).end, f"{key} is committed beyond its end")
        after = decode(offset, metadata)
        _check(not metadata or after != CompletionMap(), f"{key} has unreadable metadata")
        newly = set()
        for request in self.at(key):
            was = request.offset < old or request.offset in before
            now = request.offset < offset or request.offset in after
            _check(now or not was, f"request {request.number} is finished no more")
            if now and not was:
                newly.add(request.number)
            grown = after.starts.get(request.offset, 0) - before.starts.get(request.offset, 0)
            _check(grown <= 1, f"request {request.number} counts {grown} starts at once")
            self._note_starts(request, after.starts.get(request.offset, 0))
        return newly

    def _note_starts(self, request: Request, starts: int) -> None:
        self.most_starts[request.number] = max(starts, self.most_starts.get(request.number, 0))

    def _books(self, key: Key) -> CompletionMap:
        return decode(*self.broker.positions.get(key, (0, "")))

    def _origin(self, entry: Entry) -> Key:
        request = self.requests[number_of(entry.headers)]
        return request.topic, request.partition

    def _outcome(self, entry: Entry) -> str:
        if entry.topic == TOPICS.dead_letter:
            return "dead-letter"
        event = CODEC.decode_any(entry.value, topic=entry.topic, headers=entry.headers)
        if isinstance(event, GenerationCompleted):
            keys = object_keys("g", event.job_id, "jpeg")
            for name in (keys.image, keys.thumbnail, keys.manifest):
                _check(name in self._bucket.objects, f"{event.job_id} is completed without {name}")
            return "completed"
        assert isinstance(event, GenerationFailed)
        return f"failed {event.error_code}"

    def _check_kind(self, request: Request) -> None:
        [outcome] = request.outcomes
        if request.number in self._expected:
            _check(
                outcome == self._expected[request.number], f"{request} should end as {self._expected[request.number]}"
            )
            return
        if outcome == "failed crash_loop":
            starts = self.most_starts.get(request.number, 0)
            _check(starts >= self._crash_loop_limit, f"{request} is given up after {starts} starts")
            return
        if self._is_id_of_another(request) and request.kind is not Kind.UNDECODABLE:
            # One that makes no picture may have ended by itself before.
            reused = outcome == "failed invalid_request"
            _check(reused or request.kind is not Kind.GOOD, f"{request} has the id of another picture, ends otherwise")
            if reused:
                return
        expected = {
            Kind.GOOD: "completed",
            Kind.NAN: "failed model_error",
            Kind.INVALID: "failed invalid_request",
            Kind.UNDECODABLE: "dead-letter",
            Kind.POISON: "failed crash_loop",
        }
        _check(outcome == expected[request.kind], f"{request} should end as {expected[request.kind]}")

    def _is_id_of_another(self, request: Request) -> bool:
        """Whether a different request under the same id has the picture."""
        return any(
            other.outcomes == ["completed"] and other.value != request.value
            for other in self.requests.values()
            if other.job_id == request.job_id
        )

    def _check_statuses(self) -> None:
        last: dict[str, GenerationStatus] = {}
        for entry in self.broker.topic(TOPICS.status):
            event = CODEC.decode(entry.value, topic=entry.topic, headers=None, expected=GenerationStatus)
            last[event.job_id] = event
        for job_id in {r.job_id for r in self.requests.values() if r.kind is not Kind.UNDECODABLE}:
            outcomes = {r.outcomes[0] for r in self.requests.values() if r.job_id == job_id}
            status = last[job_id]
            found = "completed" if status.error_code is None else f"failed {status.error_code}"
            _check(status.status in ("completed", "failed"), f"{job_id} has ended, its last status is {status.status}")
            if (
                "failed invalid_request" in outcomes
                and object_keys("g", job_id, "jpeg").manifest in self._bucket.objects
            ):
                # Refused for an id that is that of a picture, which stays what the status tells.
                outcomes.add("completed")
            _check(found in outcomes, f"{job_id} ended as {outcomes}, its last status says {found}")


def _outcomes(transaction: Transaction) -> Iterable[Entry]:
    return [entry for entry in transaction.entries if entry.topic in OUTCOME_TOPICS]


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise Violation(message)
