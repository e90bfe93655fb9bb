"""One run of `forget`: look, cancel what is under way, delete, and say what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.cli.forget.log import Traces, cancel_and_wait, delete_statuses, read_traces
from worker.cli.forget.objects import Found, count_objects, delete_objects, find_jobs
from worker.cli.forget.record import Forgotten, put_record
from worker.cli.forget.subject import Kind, Subject
from worker.cli.requests import utc_now
from worker.client.connection import Connection
from worker.delivery.keys import PICTURES
from worker.delivery.s3_listing import is_versioned
from worker.delivery.s3_objects import S3Objects
from worker.job import SAFE_NAME
from worker.topic_admin import TopicsError, describe_topics
from worker.topics import DAY_MS

_STATUS = "status"
_PATHS_SHOWN = 3


@dataclass(slots=True)
class Forget:
    """Removes what is stored of one subject.

    Args:
        reference: is written into the record.
    """

    connection: Connection
    objects: S3Objects
    subject: Subject
    reference: str | None = None
    traces: Traces = field(default_factory=Traces)
    found: Found = field(default_factory=Found)

    def look(self) -> Counter[str]:
        """Find everything, and count it: objects by prefix, and statuses. Nothing is changed."""
        self.traces = read_traces(self.connection, self.subject)
        self.found = find_jobs(self.objects, self.subject)
        counts = count_objects(self.objects, self.subject, self._jobs())
        counts[_STATUS] = len(self.traces.statuses)
        return counts

    def remove(self, timeout_s: float) -> tuple[Counter[str], set[str], str]:
        """Remove what `look` found.

        Returns:
            What was removed, the jobs that are still under way, and the key of the record.

        Raises:
            CommandError, StoreUnavailable: it is not done; run it again.
        """
        running = cancel_and_wait(self.connection, self.traces.under_way, timeout_s)
        removed = delete_objects(self.objects, self.subject, self._jobs())
        # Jobs that were cancelled have a new status.
        self.traces = read_traces(self.connection, self.subject)
        removed[_STATUS] = delete_statuses(self.connection, self.traces.statuses)
        job_ids = frozenset(job_id for _, job_id in (*self.traces.jobs, *self.found.jobs))
        forgotten = Forgotten(
            kind=self.subject.kind,
            at=utc_now(),
            job_ids=job_ids,
            removed=removed,
            complete=not running and not self.found.unread,
            reference=self.reference,
        )
        return removed, running, put_record(self.objects, forgotten)

    def out_of_reach(self) -> Iterator[str]:
        """What stays, and for how long, in sentences."""
        kept = self._retention_days()
        topics, unread = self.connection.topics, self.found.unread
        for topic, count in sorted(self.traces.records.items()):
            if topic != topics.status:
                yield f"{topic}: {count} record(s), for as long as the topic keeps them ({kept.get(topic, 7.0):g} days)"
        yield f"{topics.status}: older statuses, until the topic is compacted"
        dead_days = kept.get(topics.dead_letter, 30.0)
        yield f"{topics.dead_letter}: it is not searched, and keeps records for {dead_days:g} days"
        if self.traces.unread:
            yield f"{self.traces.unread} record(s) that cannot be decoded, so that nobody knows whose they are"
        if unread:
            yield f"{len(unread)} manifest(s) that cannot be read; look at them: {', '.join(unread[:3])}"
        paths = self.cdn_paths()
        more = f" and {len(paths) - _PATHS_SHOWN} more (--json lists all)" if len(paths) > _PATHS_SHOWN else ""
        shown = f"; invalidate there: {', '.join(paths[:_PATHS_SHOWN])}{more}" if paths else ""
        yield f"caches of browsers (up to a year) and of the CDN{shown}"
        versioned = is_versioned(self.objects)
        if versioned is not False:
            yield f"older versions of the objects, {'which' if versioned else 'if'} the bucket keeps: delete those too"
        yield "logs, traces, and whatever consumers of the events have stored"

    def _jobs(self) -> set[tuple[str, str]]:
        known = {
            (girl, job) for girl, job in self.traces.jobs if SAFE_NAME.fullmatch(girl) and SAFE_NAME.fullmatch(job)
        }
        return known | self.found.jobs

    def cdn_paths(self) -> list[str]:
        """What a CDN has to be told to invalidate, as CloudFront takes it."""
        if self.subject.kind is Kind.GIRL:
            return [f"/{PICTURES}/{self.subject.girl_id}/*"]
        return [f"/{PICTURES}/{girl}/{job}*" for girl, job in sorted(self._jobs())]

    def _retention_days(self) -> dict[str, float]:
        try:
            described = describe_topics(self.connection.config(), self.connection.topics)
        except TopicsError:
            return {}
        configured = {topic.name: topic.config.get("retention.ms", "") for topic in described}
        return {name: int(text) / DAY_MS for name, text in configured.items() if text.isdecimal()}
