"""The paths for orchestrators and Prometheus: health, readiness, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from worker import __version__
from worker.gateway import shapes
from worker.gateway.answers import as_json, refused
from worker.gateway.parameters import only_known_parameters
from worker.gateway.service import Service
from worker.gateway.state import State
from worker.settings import Settings
from worker.telemetry.exposition import Exposition


def probe_routes(service: Service, state: State) -> APIRouter:
    """What an orchestrator asks; without a token."""
    router = APIRouter(responses=refused(400, 421, 422), dependencies=[Depends(only_known_parameters)])

    @router.get("/health", response_model=shapes.HealthReport, responses={503: {"model": shapes.HealthReport}})
    async def health() -> Response:
        """The process serves; `ready` tells whether it can do its work."""
        reasons = state.not_ready()
        report = shapes.HealthReport(
            status="healthy" if state.reading.alive else "unhealthy",
            ready=not reasons,
            not_ready=reasons,
            version=__version__,
            jobs=len(service.board),
            streams=len(service.hub),
        )
        return as_json(report, 200 if state.reading.alive else 503)

    @router.get("/ready", response_model=shapes.Readiness, responses={503: {"model": shapes.Readiness}})
    async def ready() -> Response:
        """Whether requests should be sent here."""
        reasons = state.not_ready()
        return as_json(shapes.Readiness(ready=not reasons, reasons=reasons), 503 if reasons else 200)

    return router


def metrics_routes(settings: Settings) -> APIRouter:
    """What Prometheus asks, with a token; GATEWAY_METRICS_PORT answers without one."""
    router = APIRouter(include_in_schema=False)
    shown = exposition(settings)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(shown), media_type=CONTENT_TYPE_LATEST)

    return router


def exposition(settings: Settings) -> Exposition:
    """A gateway belongs to the fleet that takes its requests."""
    return Exposition("gateway", settings.kafka_group_id, settings.kafka_topic_prefix)
