"""The worker's intake by itself: everything up to an admitted job, which is finished in the ledger at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from devtools.bench.fleet.workers import SoundCluster
from devtools.bench.worker.record_watch import Stopwatch
from worker.cluster.checker import ClusterChecker
from worker.connections import RealConnections
from worker.delivery.upload import PictureStore
from worker.events.codec import make_codec
from worker.failure import Failure
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.intake.request_reader import RequestReader
from worker.job import Job, Origin
from worker.outcome import Original
from worker.reading import make_input, make_reading
from worker.rule_files import read_rules
from worker.runtime import LEAVE_S, POLL_S, ROUNDS
from worker.settings import Settings
from worker.telemetry.health import Health
from worker.threads import SystemThreads
from worker.topics import Topics


class _Finish:
    """Ends each job as soon as it is admitted; nothing is committed."""

    def __init__(self, ledger: Ledger, watch: Stopwatch) -> None:
        self._ledger, self._watch = ledger, watch

    def on_admitted(self, job: Job, starts: int) -> None:
        del starts
        with self._ledger.lock:
            self._ledger.finish([job.origin])
        self._watch.tick()

    def on_undecodable(self, origin: Origin, original: Original, error: str) -> None:
        raise AssertionError(f"{origin} of {original.key!r}: {error}")

    def on_rejected(self, failure: Failure) -> None:
        raise AssertionError(failure.message)

    def commit_soon(self, partition: Key) -> None: ...
    def release_unowned(self) -> None: ...
    def release_partitions(self, partitions: Sequence[Key]) -> None: ...
    def wait_for_flush(self) -> None: ...


def run_ours(servers: str, group: str, topics: Topics, watch: Stopwatch, **changes: str) -> None:
    """Read until the watch is over. `changes` are further settings."""
    settings = Settings.model_validate(
        {
            "kafka_bootstrap_servers": servers,
            "kafka_group_id": group,
            "kafka_topic_prefix": topics.prefix,
            "worker_id": group,
            "aws_s3_bucket": "none",
            **changes,
        }
    )
    threads, health = SystemThreads(), Health(time.monotonic)
    cluster = cast("ClusterChecker", SoundCluster(servers))
    connections = RealConnections(settings, cast("PictureStore", None), cluster)
    source = make_input(topics, settings, connections, threads, health)
    finish = _Finish(source.ledger, watch)
    codec = make_codec(settings, waits=False)
    reader = RequestReader(source.ledger, codec, read_rules(settings), finish, source.lanes, threads.now)
    reading = make_reading(
        source, reader, finish, settings, connections, threads, is_failing=lambda: False, rounds=ROUNDS
    )
    reading.intake.subscribe()
    while watch.wants_more():
        health.beat("poll")
        reading.intake.tick(POLL_S)
        with source.ledger.lock:
            reading.lag.sample(threads.now())
    source.members.leave(threads, LEAVE_S)
    threads.stop(LEAVE_S)
