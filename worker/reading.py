"""The wiring of what reads a process's input, the same for workers and dispatchers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker import kafka_config
from worker.cluster.watch import ClusterWatch
from worker.connections import Connections
from worker.intake.consume import Intake, IntakeHooks, RecordReader
from worker.intake.consumer_proxy import ConsumerProxy, OffsetsReader
from worker.intake.end_watch import EndWatch
from worker.intake.lag import LagGauge
from worker.intake.lane_members import LaneMembers, Renewal
from worker.intake.ledger import Ledger
from worker.intake.ledger import TopicPartition as Key
from worker.intake.log_bounds import LogBounds
from worker.intake.patience import Patience
from worker.intake.positions import Positions
from worker.job import Lane
from worker.poll_waits import PollWaits
from worker.settings import Settings
from worker.telemetry.health import Health
from worker.threads import Threads
from worker.topics import Topics


@dataclass(frozen=True, slots=True)
class Input:
    """The group's members and what waits for them; `proxy` speaks for them from other threads."""

    topics: Topics
    lanes: dict[str, Lane]
    ledger: Ledger
    members: LaneMembers
    proxy: ConsumerProxy
    waits: PollWaits


@dataclass(frozen=True, slots=True)
class Reading:
    """The intake, and what is told of it."""

    intake: Intake
    lag: LagGauge
    watch: ClusterWatch


def make_input(
    topics: Topics,
    settings: Settings,
    connections: Connections,
    threads: Threads,
    health: Health,
    offsets_reader: OffsetsReader | None = None,
) -> Input:
    """Make a member for each lane, of the request topics that `topics` names.

    Args:
        offsets_reader: tells where to begin; that of the connections where there is none.
    """
    lanes = dict(zip(topics.requests, Lane, strict=True))
    patience = Patience(topics.requests, threads.monotonic, kafka_config.max_poll_interval_s(settings))
    renewal = Renewal(lambda topic: connections.member(lanes[topic]), threads)
    members = LaneMembers({topic: connections.member(lane) for topic, lane in lanes.items()}, patience, renewal)
    reader = offsets_reader or connections.offsets_reader()
    proxy = ConsumerProxy(members, reader, threads, patience, lambda: health.beat("poll"))
    return Input(topics, lanes, Ledger(), members, proxy, PollWaits(threads, patience, proxy.serve))


def make_reading(
    source: Input,
    reader: RecordReader,
    hooks: IntakeHooks,
    settings: Settings,
    connections: Connections,
    threads: Threads,
    *,
    is_failing: Callable[[], bool],
    rounds: int = 1,
    is_full: Callable[[Key], bool] = lambda _partition: False,
) -> Reading:
    """Read that input.

    Args:
        reader: gets each record.
        hooks: hears of partitions that come and go.
        is_failing: whether nothing can be published at the moment.
        rounds, is_full: as `Intake`.
    """
    watch = ClusterWatch(
        connections.cluster,
        threads.monotonic,
        is_assigned=lambda: source.members.are_assigned,
        is_failing=is_failing,
    )
    ends = EndWatch(LogBounds(connections.bounds_admin(), threads))
    lag = LagGauge(source.members, source.ledger, ends, settings.kafka_group_id, source.topics.requests)
    intake = Intake(
        source.members,
        source.proxy,
        source.ledger,
        ends,
        Positions(source.members, threads),
        reader,
        hooks,
        settings,
        source.topics.requests,
        threads.now,
        on_delivered=lag.note,
        on_error=watch.on_error,
        on_rebalance=watch.on_rebalance,
        rounds=rounds,
        is_full=is_full,
    )
    return Reading(intake, lag, watch)
