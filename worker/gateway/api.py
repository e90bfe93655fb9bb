"""The paths of the gateway: from HTTP to `Service`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from worker import __version__
from worker.events.headers import TRACEPARENT, passed_through
from worker.events.types import GenerationStatus, JobStatus, Priority
from worker.gateway import shapes
from worker.gateway.body import read_body
from worker.gateway.hub import Listener, TooManyStreams, Wanted
from worker.gateway.openapi import NAME_PATTERN, request_schema
from worker.gateway.refusals import Refusal, try_later
from worker.gateway.service import Service
from worker.gateway.state import State
from worker.gateway.streams import EventStream, event_id, last_event_id
from worker.job import Lane
from worker.profiles import DEFAULT
from worker.settings import Settings
from worker.telemetry.exposition import Exposition

MAX_KEY_CHARS = 255
MAX_REASON_CHARS = 200
MAX_LISTED = 500

JobId = Annotated[str, Path(pattern=NAME_PATTERN, description="The id of the job.")]
GirlId = Annotated[str | None, Query(pattern=NAME_PATTERN)]
LaneName = Annotated[str | None, Query(pattern="^(urgent|high|normal)$")]

Responses = dict[int | str, dict[str, Any]]


def refused(*codes: int) -> Responses:
    """The refusals of a path, for its description."""
    return {code: {"model": shapes.Problem} for code in codes}


_KNOWN: Responses = {200: {"model": shapes.Queued, "description": "The job is known already."}}
_STREAM: Responses = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events."}}


def job_routes(service: Service, state: State, settings: Settings) -> APIRouter:
    """Everything that is about jobs."""
    router = APIRouter(responses=refused(400, 401, 421, 422, 503), dependencies=[Depends(_only_known_parameters)])
    body = {"required": True, "content": {"application/json": {"schema": request_schema(settings)}}}
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": "^[!-~]+$"},
        "description": "The same key means the same job: it is sent once, however often this is repeated.",
    }

    @router.post(
        "/generate",
        status_code=202,
        response_model=shapes.Queued,
        responses=_KNOWN | refused(408, 409, 413, 415, 422, 429),
        openapi_extra={"requestBody": body, "parameters": [key]},
    )
    async def generate(request: Request) -> Response:
        """Ask for a picture; the answer comes once Kafka has the request."""
        state.require_loaded()
        sent = await service.generate(
            await read_body(request, settings.gateway_max_body_bytes),
            key=_idempotency_key(request),
            client=request.scope["state"]["client"],
            passed=_passed(request),
        )
        headers = {"Location": f"/status/{sent.job_id}?girl_id={sent.girl_id}"}
        if sent.repeated:
            headers["Idempotency-Replayed"] = "true"
        answer = shapes.Queued(job_id=sent.job_id, status=sent.status)
        return _json(answer, 200 if sent.repeated else 202, headers)

    @router.get("/status/{job_id}", response_model=shapes.JobState, responses=refused(404, 422, 429))
    async def status(request: Request, job_id: JobId, girl_id: GirlId = None) -> Response:
        """What is known of a job."""
        state.require_loaded()
        return _json(shapes.JobState.of(await service.status(job_id, girl_id, request.scope["state"]["client"])))

    @router.delete(
        "/jobs/{job_id}",
        status_code=202,
        response_model=shapes.CancellationSent,
        responses=refused(404, 409, 422, 429),
    )
    async def cancel(
        request: Request, job_id: JobId, reason: Annotated[str | None, Query(max_length=MAX_REASON_CHARS)] = None
    ) -> Response:
        """Ask every worker to stop a job."""
        state.require_loaded()
        ended = await service.cancel(job_id, reason, request.scope["state"]["client"], _passed(request))
        word = "cancellation_requested" if ended is None else ended.value
        return _json(shapes.CancellationSent(job_id=job_id, status=word), 202)

    @router.get("/jobs", response_model=shapes.JobList, responses=refused(422))
    async def jobs(
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
        status: JobStatus | None = None,
        lane: LaneName = None,
        girl_id: GirlId = None,
    ) -> Response:
        """The jobs that are remembered: those that are not finished, then the latest ones that are."""
        state.require_loaded()
        wanted = _Filter(lane, girl_id, status)
        found = (entry.event for entry in service.board.latest() if wanted(entry.event))
        return _json(shapes.JobList(jobs=[shapes.JobState.of(event) for event in islice(found, limit)]))

    @router.get(
        "/jobs/{job_id}/events",
        response_class=Response,
        responses=_STREAM | refused(404, 422) | {204: {"description": "The job has ended, and the client knows how."}},
    )
    async def job_events(request: Request, job_id: JobId) -> Response:
        """The states of one job as server-sent events, until it ends."""
        state.require_loaded()
        listener = _listen(service, job_id)
        try:
            entry = service.board.get(job_id)
            if entry is None:
                first = await listener.next(service.unknown_wait_s)
                if not first:
                    raise Refusal(404, "nothing is known of this job", "job_id")
            else:
                first = [entry.event]
            seen = last_event_id(request.headers.get("last-event-id"))
            if entry is not None and entry.ended and seen is not None and event_id(entry.event) <= seen:
                service.hub.leave(job_id, listener)
                return Response(status_code=204)
            return EventStream(listener, first, ends=True, on_end=lambda: service.hub.leave(job_id, listener))
        except BaseException:
            service.hub.leave(job_id, listener)
            raise

    @router.get("/events", response_class=Response, responses=_STREAM | refused(422))
    async def events(request: Request, lane: LaneName = None, girl_id: GirlId = None) -> Response:
        """The states of all jobs as server-sent events."""
        state.require_loaded()
        wanted = _Filter(lane, girl_id)
        listener = _listen(service, None, wanted)
        seen = last_event_id(request.headers.get("last-event-id"))
        first = (
            []
            if seen is None
            else [
                entry.event for entry in service.board.latest() if event_id(entry.event) >= seen and wanted(entry.event)
            ]
        )
        first.sort(key=lambda event: event.updated_at)
        return EventStream(listener, first, ends=False, on_end=lambda: service.hub.leave(None, listener))

    @router.get("/queue", response_model=shapes.Queue)
    async def queue() -> Response:
        """How many jobs wait and run, by lane."""
        state.require_loaded()
        lanes = []
        for lane in Lane:
            waiting, running = service.board.counts(lane)
            lanes.append(shapes.LaneCount(lane=lane.label, waiting=waiting, running=running))
        return _json(shapes.Queue(lanes=lanes, complete=service.board.complete))

    @router.get("/profiles", response_model=shapes.ProfileList)
    async def profiles() -> Response:
        """The girl_ids that have a profile of their own."""
        known = service.admission.rules.profiles
        names = [
            shapes.ProfileName(name=name, description=profile.description)
            for name, profile in known or ()
            if name != DEFAULT
        ]
        return _json(shapes.ProfileList(profiles=names))

    return router


def probe_routes(service: Service, state: State) -> APIRouter:
    """What an orchestrator asks; without a token."""
    router = APIRouter(responses=refused(400, 421, 422), dependencies=[Depends(_only_known_parameters)])

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
        return _json(report, 200 if state.reading.alive else 503)

    @router.get("/ready", response_model=shapes.Readiness, responses={503: {"model": shapes.Readiness}})
    async def ready() -> Response:
        """Whether requests should be sent here."""
        reasons = state.not_ready()
        return _json(shapes.Readiness(ready=not reasons, reasons=reasons), 503 if reasons else 200)

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


async def _only_known_parameters(request: Request) -> None:
    """Raises Refusal: 422, the query has a parameter that the path does not know, such as one with a typing error."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    unknown = sorted(request.query_params.keys() - known)
    if unknown:
        shown = unknown[0][:80]
        raise Refusal(
            422, f"this path knows no parameter {shown!r}; it knows {', '.join(sorted(known)) or 'none'}", shown
        )


class _Filter:
    """Whether a job is one of those that were asked for."""

    def __init__(self, lane: str | None, girl_id: str | None, status: JobStatus | None = None) -> None:
        self._lane = None if lane is None else Priority(lane)
        self._girl_id = girl_id
        self._status = status

    def __call__(self, event: GenerationStatus) -> bool:
        return (
            (self._lane is None or event.priority is self._lane)
            and (self._girl_id is None or event.girl_id == self._girl_id)
            and (self._status is None or event.status is self._status)
        )


def _listen(service: Service, job_id: str | None, wanted: Wanted = lambda _: True) -> Listener:
    try:
        return service.hub.listen(job_id, wanted)
    except TooManyStreams:
        raise try_later("as many event streams as GATEWAY_MAX_STREAMS are open", 10) from None


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= MAX_KEY_CHARS or not all("!" <= char <= "~" for char in keys[0]):
        sentence = f"it is one value of 1 to {MAX_KEY_CHARS} printable ASCII characters without spaces"
        raise Refusal(422, f"Idempotency-Key: {sentence}", "Idempotency-Key")
    return keys[0]


def _passed(request: Request) -> Mapping[str, str]:
    trace = request.headers.get(TRACEPARENT)
    return {} if trace is None else passed_through(((TRACEPARENT, trace.encode("latin-1", "replace")),))


def _json(answer: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(answer.model_dump(mode="json", exclude_none=True), status, headers)
