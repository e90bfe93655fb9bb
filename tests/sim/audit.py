"""The invariants of a simulation, checked whenever something becomes durable and when all jobs have ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tests.sim.broker import Broker, Entry, Transaction
from tests.sim.group import Key, Member
from tests.sim.requests import CODEC, TOPICS, Kind, Request, number_of
from tests.sim.store import Bucket
from worker.delivery.keys import object_keys
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationStatus
from worker.intake.offset_metadata import CompletionMap, decode, encode
from worker.job import Job

# Above every offset.
_NO_OFFSET = 1 << 62
OUTCOME_TOPICS = (TOPICS.completed, TOPICS.failed, TOPICS.dead_letter)


class Violation(AssertionError):
    """An invariant is broken."""


class Audit:
    """Knows every request record and follows it to its one outcome, a record in one of `outcome_topics`."""

    outcome_topics: tuple[str, ...] = OUTCOME_TOPICS

    def __init__(self, bucket: Bucket, crash_loop_limit: int) -> None:
        self.requests: dict[int, Request] = {}
        # Requests whose records are gone from the log; they may have an outcome or none.
        self.gone: dict[int, Request] = {}
        self.broker: Broker
        self._bucket = bucket
        self._crash_loop_limit = crash_loop_limit
        # The highest durable count of starts that each request ever had.
        self._expected: dict[int, str] = {}
        self.most_starts: dict[int, int] = {}

    @property
    def drawn(self) -> dict[int, Request]:
        """The records that workers draw pictures for."""
        return self.requests

    def at(self, key: Key) -> list[Request]:
        return [request for request in self.requests.values() if (request.topic, request.partition) == key]

    def lose(self, key: Key, gone: range) -> list[Request]:
        """The records of these offsets are not in the log any more; returns the requests that had no outcome."""
        lost = [request for request in self.at(key) if request.offset in gone]
        for request in lost:
            self.gone[request.number] = self.requests.pop(request.number)
        return [request for request in lost if not request.outcomes]

    def on_positions(self, positions: Collection[Key], member: Member) -> None:
        """Offsets are of partitions that the member that sends them owns at that moment."""
        for key in positions:
            check(key in member.owned, f"{member.id} publishes for {key}, which is not its own")

    def on_commit(self, transaction: Transaction) -> None:
        """Exactly the records that this transaction finishes get their outcome in it, beside offsets of theirs."""
        for key in map(self._origin, self._outcomes(transaction)):
            check(key in transaction.positions, f"a result for {key} is published without its offsets")
        finished: set[int] = set()
        for key, (offset, metadata) in transaction.positions.items():
            finished |= self._newly_finished(key, offset, metadata, transaction.leader_epochs.get(key))
        answered = [number_of(entry.headers) for entry in self._outcomes(transaction)]
        for number in set(answered) & set(self.gone):
            check(not self.gone[number].outcomes, f"request {number} is answered again")
            self.gone[number].outcomes.append("gone")
            answered.remove(number)
        for number in answered:
            check(answered.count(number) == 1, f"request {number} is answered twice in one transaction")
            check(not self.requests[number].outcomes, f"request {number} is answered again")
        check(set(answered) == finished, f"answers {sorted(answered)}, but the offsets finish {sorted(finished)}")
        for entry in self._outcomes(transaction):
            if number_of(entry.headers) in self.requests:
                self.requests[number_of(entry.headers)].outcomes.append(self._outcome(entry))

    def on_run(self, job: Job, owner: Member | None) -> None:
        """A job touches the GPU only with its start durable, and not when it is finished."""
        number = number_of([("traceparent", job.headers["traceparent"].encode())])
        request = self.requests.get(number) or self.gone[number]
        request.runs += 1
        if number in self.gone:
            return
        if owner is None or (request.topic, request.partition) not in owner.owned:
            return  # out of its session, it cannot know
        check(not request.outcomes, f"request {request.number} runs again though it is finished")
        starts = self._books((request.topic, request.partition)).starts.get(request.offset, 0)
        check(starts == job.attempt, f"request {request.number} runs as attempt {job.attempt}, durable are {starts}")

    def expect(self, request: Request, outcome: str) -> None:
        """This request ends in another way than others of its kind."""
        self._expected[request.number] = outcome

    def finish(self) -> None:
        """When all is quiet."""
        for request in self.requests.values():
            check(len(request.outcomes) == 1, f"{request} has not exactly one outcome")
            self._check_kind(request)
        seen = [number_of(entry.headers) for topic in self.outcome_topics for entry in self.broker.topic(topic)]
        answered = sorted([*self.requests, *(number for number, request in self.gone.items() if request.outcomes)])
        check(sorted(seen) == answered, f"read_committed sees outcomes of {sorted(seen)}")
        for key in {(request.topic, request.partition) for request in self.requests.values()}:
            offset, _ = self.broker.positions[key]
            for request in self.at(key):
                done = request.offset < offset or request.offset in self._books(key)
                check(done, f"{key} stands at {offset}, request {request.number} is not finished there")
            # A map may know records that the log has lost, until others are written over them.
            books = self._books(key)
            check(not books.below(self._end_committed(key)).starts, f"{key} keeps starts of finished records")
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

    def below_end(self) -> dict[Key, int]:
        """Partitions with requests whose committed offset is not their end, past transaction markers too."""
        places = {(request.topic, request.partition) for request in self.requests.values()}
        # Above an end that was lost, an offset stands for that end: its epoch says so.
        committed = {key: min(self._committed(key), self._end_committed(key)) for key in places}
        return {key: offset for key, offset in committed.items() if offset != self.broker.log(key).end}

    def unanswered(self) -> list[Request]:
        return [request for request in self.requests.values() if not request.outcomes]

    def _newly_finished(self, key: Key, offset: int, metadata: str, leader_epoch: int | None) -> set[int]:
        log, old = self.broker.log(key), self.broker.positions.get(key, (0, ""))[0]
        # What was committed of an earlier log says nothing of the records that are there now.
        before, after = self._books(key), decode(offset, metadata)
        known_to = self._end_known(key, self.broker.leader_epochs.get(key), before)
        sent_to = self._end_known(key, leader_epoch, after)
        old, before = min(old, known_to), before.below(known_to)
        check(not metadata or after != CompletionMap(), f"{key} has unreadable metadata")
        offset, after = min(offset, sent_to), after.below(sent_to)
        check(offset >= min(old, sent_to), f"{key} goes back from {old} to {offset}")
        check(offset <= log.end, f"{key} is committed beyond its end")
        newly = set()
        for request in self.at(key):
            was = request.offset < old or request.offset in before
            now = request.offset < offset or request.offset in after
            check(now or not was, f"request {request.number} is finished no more")
            if now and not was:
                newly.add(request.number)
            grown = after.starts.get(request.offset, 0) - before.starts.get(request.offset, 0)
            check(grown <= 1, f"request {request.number} counts {grown} starts at once")
            self._note_starts(request, after.starts.get(request.offset, 0))
        return newly

    def _end_known(self, key: Key, leader_epoch: int | None, books: CompletionMap) -> int:
        """Up to where a log that was read to this epoch is the same as the log now."""
        if books.topic_id not in (None, self.broker.topic_id(key[0])):
            return 0
        later = [start for epoch, start in self.broker.log(key).epochs.items() if epoch > (leader_epoch or 0)]
        return _NO_OFFSET if leader_epoch is None else min(later, default=_NO_OFFSET)

    def _committed(self, key: Key) -> int:
        return self.broker.positions.get(key, (0, ""))[0]

    def _end_committed(self, key: Key) -> int:
        return self._end_known(key, self.broker.leader_epochs.get(key), self._books(key))

    def _note_starts(self, request: Request, starts: int) -> None:
        self.most_starts[request.number] = max(starts, self.most_starts.get(request.number, 0))

    def _books(self, key: Key) -> CompletionMap:
        return decode(*self.broker.positions.get(key, (0, "")))

    def _origin(self, entry: Entry) -> Key:
        number = number_of(entry.headers)
        request = self.requests.get(number) or self.gone[number]
        return request.topic, request.partition

    def _outcomes(self, transaction: Transaction) -> Iterable[Entry]:
        return [entry for entry in transaction.entries if entry.topic in self.outcome_topics]

    def _outcome(self, entry: Entry) -> str:
        if entry.topic == TOPICS.dead_letter:
            return "dead-letter"
        event = CODEC.decode_any(entry.value, topic=entry.topic, headers=entry.headers)
        if isinstance(event, GenerationCompleted):
            keys = object_keys("g", event.job_id, "jpeg")
            for name in (keys.image, keys.thumbnail, keys.manifest):
                check(name in self._bucket.objects, f"{event.job_id} is completed without {name}")
            return "completed"
        assert isinstance(event, GenerationFailed)
        return f"failed {event.error_code}"

    def _check_kind(self, request: Request) -> None:
        [outcome] = request.outcomes
        if request.number in self._expected:
            check(
                outcome == self._expected[request.number], f"{request} should end as {self._expected[request.number]}"
            )
            return
        if outcome == "failed crash_loop":
            starts = self.most_starts.get(request.number, 0)
            check(starts >= self._crash_loop_limit, f"{request} is given up after {starts} starts")
            return
        if outcome == "failed invalid_request" and self._shares_id_with_lost(request):
            return
        if self._is_id_of_another(request) and request.kind is not Kind.UNDECODABLE:
            # One that makes no picture may have ended by itself before.
            reused = outcome == "failed invalid_request"
            check(reused or request.kind is not Kind.GOOD, f"{request} has the id of another picture, ends otherwise")
            if reused:
                return
        expected = {
            Kind.GOOD: "completed",
            Kind.NAN: "failed model_error",
            Kind.INVALID: "failed invalid_request",
            Kind.UNDECODABLE: "dead-letter",
            Kind.POISON: "failed crash_loop",
        }
        check(outcome == expected[request.kind], f"{request} should end as {expected[request.kind]}")

    def _is_id_of_another(self, request: Request) -> bool:
        """Whether a different request under the same id has the picture."""
        return any(
            other.outcomes == ["completed"] and other.value != request.value
            for other in self.requests.values()
            if other.job_id == request.job_id
        )

    def _shares_id_with_lost(self, request: Request) -> bool:
        """Whether a different request under the same id is gone, of which there may be a picture or none."""
        return any(r.job_id == request.job_id and r.value != request.value for r in self.gone.values())

    def _check_statuses(self) -> None:
        last: dict[str, GenerationStatus] = {}
        for entry in self.broker.topic(TOPICS.status):
            event = CODEC.decode(entry.value, topic=entry.topic, headers=None, expected=GenerationStatus)
            last[event.job_id] = event
        # A record that the log has lost may have been the last to tell of its job.
        lost = {r.job_id for r in self.gone.values()}
        for job_id in {r.job_id for r in self.requests.values() if r.kind is not Kind.UNDECODABLE} - lost:
            outcomes = {r.outcomes[0] for r in self.requests.values() if r.job_id == job_id}
            status = last[job_id]
            found = "completed" if status.error_code is None else f"failed {status.error_code}"
            check(status.status in ("completed", "failed"), f"{job_id} has ended, its last status is {status.status}")
            if (
                "failed invalid_request" in outcomes
                and object_keys("g", job_id, "jpeg").manifest in self._bucket.objects
            ):
                # Refused for an id that is that of a picture, which stays what the status tells.
                outcomes.add("completed")
            check(found in outcomes, f"{job_id} ended as {outcomes}, its last status says {found}")


def check(holds: bool, message: str) -> None:
    """Raise Violation with `message` unless it `holds`."""
    if not holds:
        raise Violation(message)
