"""Composition root: settings in, objects wired, threads and signals, exit code out."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from confluent_kafka import Consumer, Producer

from worker import __version__, kafka_config, startup
from worker.delivery.finish import Completer
from worker.delivery.manifest import ModelInfo
from worker.delivery.messages import Announcer
from worker.delivery.producer import TransactionalProducer
from worker.delivery.publish import Callbacks, Publisher
from worker.delivery.retry_queue import WorkQueue
from worker.delivery.transport import (
    IDEMPOTENT_CONFIG,
    TRANSACTION_CONFIG,
    AtLeastOnce,
    ExactlyOnce,
    Transport,
)
from worker.delivery.upload import PictureStore
from worker.engine.safety import make_screen
from worker.errors import StartupError
from worker.events.codec import make_codec
from worker.intake.cancellations import Cancellations
from worker.intake.consume import Intake
from worker.intake.consumer_proxy import Errands
from worker.intake.lag import LagGauge
from worker.intake.ledger import Ledger
from worker.job import Hooks
from worker.lifecycle import Flow
from worker.runtime import Crashed, Worker
from worker.settings import Settings
from worker.signals import Signals, StoppedEarly
from worker.telemetry import gpu, logs, metrics
from worker.telemetry.health import Health, serve
from worker.telemetry.job_log import Journal
from worker.topics import Topics

if TYPE_CHECKING:
    from worker.telemetry.spans import Spans

_log = structlog.get_logger()

EXIT_CRASHED = 1

MakeEngine = Callable[[Hooks], Any]
# What makes the engine, the model's description for manifests, and what /health tells about it.
LoadEngine = Callable[[Settings], tuple[MakeEngine, ModelInfo, dict[str, Any]]]


def build(
    settings: Settings,
    make_engine: MakeEngine,
    info: ModelInfo,
    store: PictureStore,
    health: Health,
    spans: Spans | None = None,
) -> Worker:
    """Wire a worker around an engine; `make_engine` gets the hooks that it has to call."""
    journal = Journal(spans)
    topics = Topics(settings.kafka_topic_prefix)
    ledger = Ledger()
    codec = make_codec(settings)
    consumer = Consumer(kafka_config.consumer_config(settings))
    errands = Errands(consumer, Consumer(kafka_config.outsider_config(settings)))

    def pause(seconds: float) -> None:
        # Only the poll thread waits, and the publisher may need it for the very thing that is waited for.
        errands.serve()
        time.sleep(seconds)

    work = WorkQueue(time.time)
    flow = Flow(
        ledger,
        work,
        Completer(store, info, settings, journal.phase, make_screen(settings)),
        Announcer(topics, settings.worker_id),
        time.time,
        pause,
        crash_loop_limit=settings.crash_loop_limit,
        revoke_timeout_s=settings.revoke_timeout_s,
        journal=journal,
    )
    engine = make_engine(Hooks(flow.ended, flow.progress, flow.dropped))
    flow.engine = engine
    intake = Intake(consumer, errands, ledger, codec, flow, settings, topics.requests, time.time)
    flow.publisher = Publisher(
        _transport(settings, errands),
        ledger,
        codec,
        Callbacks(flow.started, flow.finished, flow.discarded),
        flush_interval_s=settings.flush_interval_ms / 1000,
    )
    reader = Consumer(kafka_config.reader_config(settings))
    cancellations = Cancellations(reader, topics.cancellations, codec, flow.cancel)
    flow.cancelled = cancellations.cover
    lag = LagGauge(consumer, ledger, settings.kafka_group_id, topics.requests)
    intake.delivered = lag.note
    return Worker(settings, ledger, intake, engine, work, flow.publisher, flow, health, consumer, cancellations, lag)


def engine_maker(settings: Settings, model: Any) -> MakeEngine:
    """What makes the real engine around a loaded model."""
    from worker.engine.cost import CostModel
    from worker.engine.loop import Engine
    from worker.engine.schedule import Policy, StepScheduler

    policy = Policy(
        slots=settings.slots,
        share=settings.priority_share,
        bounds_s=(settings.urgent_wait_s, settings.high_wait_s, settings.normal_wait_s),
        urgent_slowdown_max=settings.urgent_slowdown_max,
    )
    cost = CostModel(padded_to=settings.slots if settings.deterministic else None)
    scheduler = StepScheduler(policy, cost)
    return lambda hooks: Engine(
        model,
        scheduler,
        hooks,
        time.time,
        deterministic=settings.deterministic,
        checkpoints=settings.checkpoint_jobs,
    )


def _transport(settings: Settings, group: Errands) -> Transport:
    if settings.delivery == "at-least-once":
        return AtLeastOnce(Producer(kafka_config.producer_config(settings, IDEMPOTENT_CONFIG)), group)
    config = kafka_config.producer_config(
        settings, TRANSACTION_CONFIG | {"transactional.id": kafka_config.transactional_id(settings)}
    )
    watch = startup.FenceWatch(settings.worker_id)
    return ExactlyOnce(lambda: TransactionalProducer(config), group, lambda error: watch.note(error, time.monotonic()))


def make_spans(settings: Settings) -> Spans | None:
    """The tracer; None, and nothing imported, where no endpoint is configured."""
    if settings.traces_url is None:
        return None
    from worker.telemetry.spans import Spans

    return Spans.from_settings(settings)


def load_engine(settings: Settings) -> tuple[MakeEngine, ModelInfo, dict[str, Any]]:
    """The real engine around the model that the settings name."""
    model, info, facts = load_model(settings)
    return engine_maker(settings, model), info, facts


def run(settings: Settings, load: LoadEngine = load_engine) -> int:
    """Run a worker until SIGTERM or SIGINT; a second signal ends at once.

    Args:
        load: called once S3 has answered; the chaos runs put a stand-in here.

    Returns:
        0 after a drain, 1 when a loop has crashed.

    Raises:
        StartupError: settings, model or bucket are not usable.
    """
    logs.configure(settings.log_level, settings.log_format)
    signals = Signals(settings.drain_timeout_s)
    try:
        return _run(settings, load, signals)
    except StoppedEarly as stop:
        _log.warning("signal", number=stop.number, hint="nothing had begun")
        return stop.exit_code


def _run(settings: Settings, load: LoadEngine, signals: Signals) -> int:
    signals.starting = True
    startup.check_settings(settings)
    make_screen(settings)  # a detector that does not work is told now, not after the models are loaded
    claim = startup.claim_worker_id(settings)
    health = Health(time.time, facts=_first_facts(settings))
    server, port = serve(health, settings.http_host, settings.http_port)
    _log.info("starting", version=__version__, worker_id=settings.worker_id, http_port=port)
    spans = make_spans(settings)
    try:
        store = PictureStore.from_settings(settings)
        store.check()
        startup.wait_for_kafka(settings)
        make_engine, info, facts = load(settings)
        health.facts |= facts
        worker = build(settings, make_engine, info, store, health, spans)
        signals.starting = False
        return _serve(worker, signals)
    finally:
        if spans is not None:
            spans.close()
        server.shutdown()
        server.server_close()
        if claim is not None:
            claim.close()


def load_model(settings: Settings) -> tuple[Any, ModelInfo, dict[str, Any]]:
    """The model for the engine, its description for manifests, and what /health tells about it."""
    import torch

    from worker.engine.pipeline import SdxlModel
    from worker.models.load import fingerprint, load_base, load_refiner, resolve_device, resolve_dtype

    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, device)
    base = load_base(settings.sdxl_model_id, dtype=dtype, device=device)
    refiner = None
    if settings.sdxl_refiner_id is not None:
        home = torch.device("cpu") if settings.refiner_offload else device
        refiner = load_refiner(settings.sdxl_refiner_id, dtype=dtype, device=home, share=base)
    info = ModelInfo(
        model_id=settings.sdxl_model_id,
        model_fingerprint=fingerprint(settings.sdxl_model_id, dtype=dtype),
        refiner_id=settings.sdxl_refiner_id,
        refiner_fingerprint=fingerprint(settings.sdxl_refiner_id, dtype=dtype) if settings.sdxl_refiner_id else None,
        versions={name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dtype=str(dtype).removeprefix("torch."),
        deterministic=settings.deterministic,
        slots=settings.slots,
    )
    metrics.MODEL.info({"model": info.model_id, "fingerprint": info.model_fingerprint, "dtype": info.dtype})
    if device.type == "cuda":
        gpu.watch(str(torch.cuda.get_device_properties(device).uuid))
    facts = {
        "pipeline_loaded": True,
        "refiner_loaded": refiner is not None,
        "gpu_available": torch.cuda.is_available(),
        "gpu_count": torch.cuda.device_count(),
        "device": device.type,
        "model": info.model_id,
        "model_fingerprint": info.model_fingerprint,
    }
    model = SdxlModel(base, refiner, settings.lora_dir, settings.lora_cache_size, settings.refiner_offload)
    return model, info, facts


def _first_facts(settings: Settings) -> dict[str, Any]:
    loading = {"pipeline_loaded": False, "refiner_loaded": False, "gpu_available": False, "gpu_count": 0, "device": ""}
    return loading | {"version": __version__, "worker_id": settings.worker_id}


def _serve(worker: Worker, signals: Signals) -> int:
    def reasons() -> list[str]:
        found = []
        if worker.draining:
            found.append("draining")
        if not worker.work.store_up:
            found.append("S3 does not answer")
        return found

    worker.health.ready = reasons
    worker.health.live_facts = lambda: {
        "partitions": len(worker.ledger.partitions()),
        "unfinished_jobs": worker.unfinished(),
    }
    worker.start()
    _log.info("ready")
    try:
        while not signals.count:
            worker.poll()
        _log.warning(
            "signal",
            number=signals.number,
            unfinished_jobs=worker.unfinished(),
            limit_s=worker.settings.drain_timeout_s,
            hint="running jobs are finished; a second signal ends at once",
        )
        worker.drain(worker.settings.drain_timeout_s, hurry=lambda: signals.count > 1)
    except Crashed as crash:
        # What is not committed is repeated by the next owner; a close would commit on top of a broken state.
        _log.error("crashed")
        worker.stop()
        if isinstance(crash.__cause__, StartupError):
            raise crash.__cause__ from None
        return EXIT_CRASHED
    _log.info("stopped")
    return 0
