"""`sdxl-worker dispatch`: settings in, a running dispatcher, an exit code out. No torch here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import structlog
from confluent_kafka import Consumer

from worker import __version__, kafka_config, startup
from worker.cluster.checker import make_checker, require
from worker.connections import Connections, RealConnections
from worker.delivery.messages import MessageWriter
from worker.delivery.publish import Publisher
from worker.dispatch.dispatcher import Dispatcher
from worker.dispatch.fleet import Fleet
from worker.dispatch.report_reader import ReportReader
from worker.dispatch.runtime import DispatchProcess
from worker.dispatch.takeover import takeover
from worker.events.codec import make_codec
from worker.intake.admit import AdmissionRules
from worker.intake.consumer_proxy import OffsetsReader
from worker.intake.request_reader import RequestReader
from worker.job import Lane
from worker.reading import make_input, make_reading
from worker.rule_files import read_rules
from worker.runtime import serve_until_signal
from worker.settings import Settings
from worker.signals import Signals, StoppedEarly
from worker.telemetry import logs
from worker.telemetry.exposition import Exposition
from worker.telemetry.health import Health, serve
from worker.threads import SystemThreads, Threads
from worker.topics import Topics

if TYPE_CHECKING:
    from worker.dispatch.spans import DispatchSpans

_log = structlog.get_logger()

# Requests that wait for company in a transaction; an urgent one waits for none.
FLUSH_INTERVAL_S = 0.005
# Records of a lane that are read before the dispatcher looks after its partitions and chooses: milliseconds of work.
RECORDS_AT_ONCE = 32


def dispatch_settings(settings: Settings) -> Settings:
    """The settings as the parts of a worker are to see them that a dispatcher has too."""
    return settings.model_copy(
        update={
            "kafka_group_id": settings.dispatch_group_id,
            "buffer_per_partition": settings.dispatch_buffer_per_partition,
            "input": "requests",
        }
    )


def build(
    settings: Settings,
    rules: AdmissionRules,
    connections: Connections,
    threads: Threads,
    health: Health,
    offsets_reader: OffsetsReader | None = None,
    spans: DispatchSpans | None = None,
) -> DispatchProcess:
    """Wire a dispatcher from `dispatch_settings`.

    Args:
        offsets_reader: tells where to begin; that of the connections where there is none.
        spans: where each request is traced; None for not.
    """
    topics, work = Topics(settings.kafka_topic_prefix), Topics(settings.kafka_topic_prefix, "work")
    source = make_input(topics, settings, connections, threads, health, offsets_reader)
    ledger = source.ledger
    codec = make_codec(settings, waits=False)
    dispatcher = Dispatcher(
        ledger,
        MessageWriter(topics, settings.worker_id, settings.kafka_group_id),
        threads,
        source.waits,
        Fleet(dict(zip(Lane, work.requests, strict=True))),
        make_reader=lambda hooks: RequestReader(ledger, codec, rules, hooks, source.lanes, threads.now),
        make_publisher=lambda hooks: Publisher(
            connections.transport(source.proxy), ledger, codec, hooks, flush_interval_s=FLUSH_INTERVAL_S
        ),
        spans=spans,
    )
    reading = make_reading(
        source,
        dispatcher,
        dispatcher,
        settings,
        connections,
        threads,
        is_failing=lambda: dispatcher.publisher.is_failing,
        rounds=RECORDS_AT_ONCE,
        is_full=dispatcher.is_full,
    )
    watch = reading.watch
    reports = ReportReader(
        connections.cancellations_reader(),
        topics.workers,
        make_codec(settings),
        dispatcher.hear,
        threads,
        watch.on_error,
    )
    return DispatchProcess(
        threads, ledger, reading.intake, dispatcher, reports, source.members, reading.lag, watch, health
    )


def run(settings: Settings) -> int:
    """Dispatch until SIGTERM or SIGINT; a second signal ends at once.

    Returns:
        0 after a drain, 1 when a loop has crashed; as `StoppedEarly` says after a signal during the start.

    Raises:
        StartupError: settings or Kafka topics are not usable.
    """
    logs.configure(settings.log_level, settings.log_format)
    signals = Signals(settings.drain_timeout_s)
    try:
        return _run(dispatch_settings(settings), signals, workers=settings)
    except StoppedEarly as stop:
        _log.warning("signal", number=stop.number, hint="nothing had begun")
        return stop.exit_code


def _run(settings: Settings, signals: Signals, workers: Settings) -> int:
    signals.starting = True
    startup.check_kafka_properties(settings)
    rules = read_rules(settings)
    claim = startup.claim_worker_id(settings)
    health = Health(time.monotonic, facts=_facts(settings))
    exposition = Exposition("dispatch", settings.kafka_group_id, settings.kafka_topic_prefix)
    spans = make_spans(settings)
    server, port = serve(health, settings.http_host, settings.http_port, exposition)
    _log.info("starting", version=__version__, worker_id=settings.worker_id, http_port=port, role="dispatcher")
    try:
        startup.wait_for_kafka(settings)
        checker = make_checker(settings, dispatches=True)
        require(checker)
        # A dispatcher stores no pictures.
        connections = RealConnections(settings, cast("Any", None), checker)
        past = takeover(
            connections.offsets_reader(),
            Consumer(kafka_config.offsets_reader_config(workers)),
            connections.bounds_admin(),
            workers.kafka_group_id,
        )
        process = build(settings, rules, connections, SystemThreads(), health, past, spans)
        signals.starting = False
        process.health.watch(process)
        return serve_until_signal(
            process, signals, settings.drain_timeout_s, lambda: {"waiting_requests": process.unfinished()}
        )
    finally:
        server.shutdown()
        server.server_close()
        if spans is not None:
            spans.close()
        if claim is not None:
            claim.close()


def make_spans(settings: Settings) -> DispatchSpans | None:
    """The dispatcher's spans; None where no endpoint is configured, and then OpenTelemetry is not imported."""
    if settings.traces_url is None:
        return None
    from worker.dispatch.spans import DispatchSpans

    return DispatchSpans.from_settings(settings)


def _facts(settings: Settings) -> dict[str, Any]:
    return {"version": __version__, "worker_id": settings.worker_id, "group_id": settings.kafka_group_id}
