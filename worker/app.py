"""Composition root: settings in, objects wired, signals, exit code out."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from worker import __version__, startup
from worker.call_sizes import UNPADDED_ROWS, CallSizes
from worker.cluster.checker import make_checker, require
from worker.connections import Connections, RealConnections
from worker.delivery.finish import Finisher
from worker.delivery.manifest import ModelInfo
from worker.delivery.messages import MessageWriter
from worker.delivery.publish import Publisher
from worker.delivery.retry_queue import RetryQueue
from worker.delivery.upload import PictureStore
from worker.dispatch.reporter import Reporter
from worker.dispatch.work import STANDARD_SIDE
from worker.engine.safety import make_screen
from worker.engine_interface import MakeEngine
from worker.errors import StoreUnavailable
from worker.events.codec import make_codec
from worker.intake.admit import AdmissionRules
from worker.intake.cancellations import CancellationReader
from worker.intake.cancelled_jobs import CancelledJobs
from worker.intake.request_reader import RequestReader
from worker.lifecycle.lifecycle import Lifecycle
from worker.presets import preset_named
from worker.reading import make_input, make_reading
from worker.rule_files import read_rules
from worker.runtime import ROUNDS, Worker, serve_until_signal
from worker.settings import Settings
from worker.signals import Signals, StoppedEarly
from worker.telemetry import gpu, logs, metrics
from worker.telemetry.exposition import Exposition
from worker.telemetry.health import Health, serve
from worker.telemetry.job_log import JobLog
from worker.telemetry.laps import Laps
from worker.threads import SystemThreads, Threads
from worker.topics import Topics
from worker.work_in_hand import WorkInHand

if TYPE_CHECKING:
    from worker.engine.compiled.fast_path import FastPath
    from worker.engine.pipeline import SdxlModel
    from worker.telemetry.spans import Spans

_log = structlog.get_logger()

STORE_PAUSE_FIRST_S = 0.25
STORE_PAUSE_MAX_S = 10.0


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """What a loader returns.

    Args:
        info: the model's description for manifests.
        facts: what `/health` tells about the model.
    """

    make_engine: MakeEngine
    info: ModelInfo
    facts: dict[str, Any]


LoadEngine = Callable[[Settings], LoadedEngine]


def build(
    settings: Settings,
    rules: AdmissionRules,
    loaded: LoadedEngine,
    connections: Connections,
    threads: Threads,
    health: Health,
    spans: Spans | None = None,
) -> Worker:
    """Wire a worker. The simulation calls this too, with connections and threads of its own."""
    topics = Topics(settings.kafka_topic_prefix, settings.input)
    source = make_input(topics, settings, connections, threads, health)
    ledger = source.ledger
    codec = make_codec(settings, waits=False)
    retry_queue = RetryQueue(threads.monotonic)
    cancelled = CancelledJobs()
    work = WorkInHand()
    job_log = JobLog(spans, work)
    lifecycle = Lifecycle(
        ledger,
        retry_queue,
        Finisher(connections.store, loaded.info, settings, job_log.phase, make_screen(settings)),
        MessageWriter(topics, settings.worker_id, settings.kafka_group_id),
        job_log,
        threads,
        source.waits,
        make_engine=loaded.make_engine,
        make_publisher=lambda hooks: Publisher(
            connections.transport(source.proxy),
            ledger,
            codec,
            hooks,
            flush_interval_s=settings.flush_interval_ms / 1000,
        ),
        cancellation_of=cancelled.reason,
        crash_loop_limit=settings.crash_loop_limit,
        revoke_timeout_s=settings.revoke_timeout_s,
        wait_bounds_s=(settings.urgent_wait_s, settings.high_wait_s, settings.normal_wait_s),
    )
    reading = make_reading(
        source,
        RequestReader(ledger, codec, rules, lifecycle, source.lanes, threads.now),
        lifecycle.partitions,
        settings,
        connections,
        threads,
        is_failing=lambda: lifecycle.publisher.is_failing,
        rounds=ROUNDS,
    )
    watch = reading.watch
    cancellations = CancellationReader(
        connections.cancellations_reader(),
        topics.cancellations,
        codec,
        cancelled,
        lifecycle.cancel,
        threads,
        watch.on_error,
    )

    def make_reporter(accepts: Callable[[], bool]) -> Reporter:
        return Reporter(
            connections.report_producer(),
            topics.workers,
            codec,
            ledger,
            work,
            threads,
            worker_id=settings.worker_id,
            rows=loaded.info.calls.rows(STANDARD_SIDE, STANDARD_SIDE),
            models=(loaded.info.model_id, loaded.info.model_fingerprint),
            accepts=accepts,
            on_error=watch.on_error,
        )

    return Worker(
        settings,
        threads,
        ledger,
        reading.intake,
        retry_queue,
        lifecycle,
        health,
        source.members,
        cancellations,
        reading.lag,
        watch,
        make_reporter if settings.input == "work" else None,
    )


def engine_maker(settings: Settings, model: SdxlModel, info: ModelInfo, fast: FastPath | None = None) -> MakeEngine:
    """What makes the real engine around a loaded model, which `info` describes."""
    from worker.engine.loop import StepEngine
    from worker.engine.schedule.policy import ROWS_MAX, Policy
    from worker.engine.schedule.scheduler import StepScheduler

    policy = Policy(
        rows_max=ROWS_MAX if settings.deterministic else settings.slots or UNPADDED_ROWS,
        share=settings.priority_share,
        bounds_s=(settings.urgent_wait_s, settings.high_wait_s, settings.normal_wait_s),
        urgent_slowdown_max=settings.urgent_slowdown_max,
    )
    scheduler = StepScheduler(policy)
    return lambda hooks: StepEngine(
        model,
        scheduler,
        hooks,
        time.time,
        calls=info.calls if info.deterministic else None,
        fast=fast,
        checkpoints=settings.checkpoint_jobs,
        stopwatch=time.monotonic,
    )


def make_spans(settings: Settings) -> Spans | None:
    """The tracer; None, and nothing imported, where no endpoint is configured."""
    if settings.traces_url is None:
        return None
    from worker.telemetry.spans import Spans

    return Spans.from_settings(settings)


def load_engine(settings: Settings) -> LoadedEngine:
    """The real engine around the model that the settings name. Raises ModelLoadError."""
    model, info, facts = load_model(settings)
    fast = make_fast_path(settings, model, info)
    info = replace(info, buckets=fast.names)
    return LoadedEngine(engine_maker(settings, model, info, fast), info, facts)


def make_fast_path(settings: Settings, model: SdxlModel, info: ModelInfo) -> FastPath:
    """The compiled steps that the settings ask for, warm and checked; none on a CPU, unless they ask."""
    from worker.engine.canary import canary
    from worker.engine.compiled.fast_path import Plan
    from worker.engine.compiled.start import Wish, start_fast_path

    _log.info("canary", pixels_sha256=canary(model), device=info.device, dtype=info.dtype)
    preset = preset_named(settings.sdxl_preset)
    guided = preset is None or preset.guidance_scale > 1
    plan = Plan(settings.sizes_compiled, settings.compile_chunks, guided)
    wish = Wish(settings.compile, plan, settings.compile_cache_dir)
    return start_fast_path(model, wish, info.calls if info.deterministic else None)


def run(settings: Settings, load: LoadEngine = load_engine) -> int:
    """Run a worker until SIGTERM or SIGINT; a second signal ends at once.

    Args:
        load: called once S3 has answered and the topics were looked at; the chaos runs put a stand-in here.

    Returns:
        0 after a drain, 1 when a loop has crashed; as `StoppedEarly` says after a signal during the start.

    Raises:
        StartupError: settings, model, bucket or Kafka topics are not usable.
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
    laps = Laps()
    startup.check_settings(settings)
    rules = read_rules(settings)
    make_screen(settings)  # a detector that does not work is told now, not after the models are loaded
    claim = startup.claim_worker_id(settings)
    health = Health(time.monotonic, facts=_first_facts(settings))
    exposition = Exposition("worker", settings.kafka_group_id, settings.kafka_topic_prefix)
    server, port = serve(health, settings.http_host, settings.http_port, exposition)
    _log.info("starting", version=__version__, worker_id=settings.worker_id, http_port=port)
    spans = make_spans(settings)
    try:
        store = PictureStore.from_settings(settings, health.waiting)
        laps.end("settings_s")
        wait_for_store(store.check, health)
        laps.end("store_s")
        startup.wait_for_kafka(settings)
        checker = make_checker(settings)
        require(checker)
        laps.end("kafka_s")
        loaded = load(settings)
        laps.end("model_s")
        _log.info("start_times", **laps.seconds)
        health.facts |= loaded.facts
        worker = build(
            settings, rules, loaded, RealConnections(settings, store, checker), SystemThreads(), health, spans
        )
        signals.starting = False
        return _serve(worker, signals)
    finally:
        if spans is not None:
            spans.close()
        server.shutdown()
        server.server_close()
        if claim is not None:
            claim.close()


def wait_for_store(check: Callable[[], None], health: Health, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until S3 can be used: an outage at the start is an outage, not a wrong setting. A signal ends the wait.

    Raises:
        BucketError: as `check`.
    """
    reason, pause_s = "", STORE_PAUSE_FIRST_S
    while True:
        try:
            check()
        except StoreUnavailable as error:
            if str(error) != reason:
                reason = str(error)
                health.starting = f"waiting for S3: {reason}"
                _log.warning("store_unavailable", what="start", reason=reason)
            sleep(pause_s)
            pause_s = min(STORE_PAUSE_MAX_S, 2 * pause_s)
        else:
            health.starting = "starting"
            return


def load_model(settings: Settings) -> tuple[SdxlModel, ModelInfo, dict[str, Any]]:
    """The model for the engine, its description for manifests, and what /health tells about it."""
    laps = Laps()
    import torch

    from worker.engine.embeddings import embedding_widths, read_embeddings
    from worker.engine.pipeline import SdxlModel
    from worker.engine.trial import try_out
    from worker.engine.vae_tiles import set_tiles
    from worker.memory_plan.start import plan_start
    from worker.models.digest_cache import DigestCache, default_place
    from worker.models.fingerprint import Ahead, fingerprint
    from worker.models.load import load_base, load_refiner, resolve_device, resolve_dtype
    from worker.models.numerics import choose_numerics

    laps.end("imports_s")
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, device)
    precision = str(dtype).removeprefix("torch.")
    tile_px, has_room = plan_start(settings, device, precision)
    laps.end("memory_plan_s")
    digests = DigestCache(settings.digest_cache_path or default_place())
    model_ids = [name for name in (settings.sdxl_model_id, settings.sdxl_refiner_id) if name is not None]
    fingerprints = Ahead(lambda: [fingerprint(name, dtype=dtype, digests=digests) for name in model_ids])
    numerics = choose_numerics(settings, device, dtype)
    channels_last = "memory_format" in numerics.told
    base = load_base(settings.sdxl_model_id, dtype=dtype, device=device, channels_last=channels_last)
    refiner = None
    if settings.sdxl_refiner_id is not None:
        home = torch.device("cpu") if settings.refiner_offload else device
        refiner = load_refiner(
            settings.sdxl_refiner_id, dtype=dtype, device=home, share=base, channels_last=channels_last
        )
    numerics.apply_to_vae(base, refiner)
    for pipe in filter(None, (base, refiner)):
        set_tiles(pipe.vae, tile_px)
    laps.end("load_s")
    embeddings = read_embeddings(settings.sdxl_embeddings_path, embedding_widths(base))
    base_fingerprint, *others = fingerprints.result()
    laps.end("fingerprints_s")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if settings.slots is not None and settings.deterministic:
        _log.warning("call_size_overridden", slots=settings.slots, hint="unset, a table decides")
    info = ModelInfo(
        model_id=settings.sdxl_model_id,
        model_fingerprint=base_fingerprint,
        refiner_id=settings.sdxl_refiner_id,
        refiner_fingerprint=others[0] if others else None,
        versions={name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")}
        | dict(numerics.versions),
        device=name,
        dtype=precision,
        deterministic=settings.deterministic,
        calls=CallSizes(name, precision, settings.slots),
        lora_mode=settings.lora_mode,
        embeddings_fingerprint=embeddings.fingerprint,
        vae_tile_px=tile_px,
        numerics=numerics.told,
    )
    metrics.MODEL.info({"model": info.model_id, "fingerprint": info.model_fingerprint, "dtype": info.dtype})
    if device.type == "cuda":
        gpu.note_visible(torch.cuda.device_count())
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
    model = SdxlModel(
        base,
        refiner,
        settings.lora_dir,
        settings.lora_cache_size,
        settings.refiner_offload,
        embeddings=embeddings,
        lora_cache_bytes=settings.lora_cache_mb << 20,
        lora_second_copy=settings.lora_second_copy and has_room,
        lora_methods=info.lora_methods,
    )
    try_out(model, model_id=settings.sdxl_model_id, refiner_id=settings.sdxl_refiner_id)
    laps.end("trial_s")
    _log.info("model_loaded", seconds=round(sum(laps.seconds.values()), 2), **laps.seconds)
    return model, info, facts


def _first_facts(settings: Settings) -> dict[str, Any]:
    loading = {"pipeline_loaded": False, "refiner_loaded": False, "gpu_available": False, "gpu_count": 0, "device": ""}
    return loading | {"version": __version__, "worker_id": settings.worker_id}


def _serve(worker: Worker, signals: Signals) -> int:
    limit_s = worker.settings.drain_timeout_s
    worker.health.watch(worker)
    return serve_until_signal(
        worker,
        signals,
        limit_s,
        lambda: {
            "unfinished_jobs": worker.unfinished(),
            "limit_s": limit_s,
            "hint": "running jobs are finished; a second signal ends at once",
        },
    )
