"""The invariants of a fleet with dispatchers: a request is passed on once and unchanged, and then answered once.

Two audits in a row. For the first a record in a work topic is the outcome of a request; for the second it is a request.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from tests.sim.audit import Audit, Violation, check
from tests.sim.broker import Broker, Entry, Transaction
from tests.sim.group import Key, Member
from tests.sim.requests import TOPICS, WORK_TOPICS, Kind, Request, number_of
from tests.sim.store import Bucket
from worker.dispatch.dispatcher import DISPATCHED_AT
from worker.job import Job

PASSED_ON = "passed on"


class HopAudit(Audit):
    """Follows requests to their work records, and what is no request to the dead-letter topic."""

    outcome_topics = (*WORK_TOPICS.requests, TOPICS.dead_letter)

    def _outcome(self, entry: Entry) -> str:
        if entry.topic == TOPICS.dead_letter:
            return "dead-letter"
        request = self.requests[number_of(entry.headers)]
        original = self.broker.record((request.topic, request.partition), request.offset)
        lane = TOPICS.requests.index(request.topic)
        check(entry.topic == WORK_TOPICS.requests[lane], f"{request} is passed on to {entry.topic}")
        headers = [header for header in entry.headers if header[0] != DISPATCHED_AT]
        check(len(headers) == len(entry.headers) - 1, f"{request} has not one {DISPATCHED_AT}")
        passed = entry.key, entry.value, headers, round(entry.at * 1000)
        was = original.key, original.value, original.headers, round(original.at * 1000)
        check(passed == was, f"{request} was changed: {was} became {passed}")
        return PASSED_ON

    def _check_kind(self, request: Request) -> None:
        expected = "dead-letter" if request.kind is Kind.UNDECODABLE else PASSED_ON
        check(request.outcomes == [expected], f"{request} should end as {expected}")

    def _check_statuses(self) -> None:
        """Dispatchers tell none."""


class WorkAudit(Audit):
    """Follows work records to their results; nothing undecodable comes so far."""

    outcome_topics = (TOPICS.completed, TOPICS.failed)


class FleetAudit:
    """Both, as one for the world and the broker."""

    def __init__(self, bucket: Bucket, crash_loop_limit: int) -> None:
        self.hop = HopAudit(bucket, crash_loop_limit)
        self.work = WorkAudit(bucket, crash_loop_limit)
        self._both: tuple[Audit, Audit] = (self.hop, self.work)
        self.gone: dict[int, Request] = {}

    @property
    def requests(self) -> dict[int, Request]:
        return self.hop.requests

    @property
    def drawn(self) -> dict[int, Request]:
        return self.work.requests

    @property
    def broker(self) -> Broker:
        return self.hop.broker

    @broker.setter
    def broker(self, broker: Broker) -> None:
        self.hop.broker = self.work.broker = broker

    def on_positions(self, positions: Collection[Key], member: Member) -> None:
        self.hop.on_positions(positions, member)

    def on_commit(self, transaction: Transaction) -> None:
        topics = {topic for topic, _ in transaction.positions} | {entry.topic for entry in transaction.entries}
        is_work = not topics & {*TOPICS.requests, *WORK_TOPICS.requests} or any(
            topic in WORK_TOPICS.requests for topic, _ in transaction.positions
        )
        if is_work:
            self.work.on_commit(transaction)
            return
        self.hop.on_commit(transaction)
        for entry in transaction.entries:
            if entry.topic in WORK_TOPICS.requests:
                self._admit(entry)

    def _admit(self, entry: Entry) -> None:
        number = number_of(entry.headers)
        if number in self.work.requests:
            raise Violation(f"request {number} has two work records")
        self.work.requests[number] = replace(
            self.hop.requests[number],
            topic=entry.topic,
            partition=entry.partition,
            offset=entry.offset,
            outcomes=[],
        )

    def on_run(self, job: Job, owner: Member | None) -> None:
        self.work.on_run(job, owner)

    def unanswered(self) -> list[Request]:
        return [request for audit in self._both for request in audit.unanswered()]

    def below_end(self) -> dict[Key, int]:
        return self.hop.below_end() | self.work.below_end()

    def lagging(self) -> list[Request]:
        return [request for audit in self._both for request in audit.lagging()]

    def rewind(self) -> None:
        for audit in self._both:
            audit.rewind()

    def finish(self) -> None:
        for audit in self._both:
            audit.finish()
        sent = {n for n, request in self.hop.requests.items() if request.kind is not Kind.UNDECODABLE}
        check(self.work.requests.keys() == sent, "not every request has its work record")
