"""The paths about jobs: from HTTP to `Service`, and back."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from worker.events.types import JobStatus
from worker.gateway import shapes
from worker.gateway.answers import Responses, as_json, refused
from worker.gateway.body import read_body
from worker.gateway.hub import Listener, TooManyStreams, Wanted
from worker.gateway.openapi import request_schema
from worker.gateway.parameters import (
    MAX_KEY_CHARS,
    MAX_REASON_CHARS,
    Filter,
    GirlId,
    JobId,
    LaneName,
    idempotency_key,
    only_known_parameters,
    passed_headers,
)
from worker.gateway.refusals import Refusal, try_later
from worker.gateway.service import Service
from worker.gateway.state import State
from worker.gateway.streams import EventStream, event_id, last_event_id
from worker.job import Lane
from worker.profiles import DEFAULT
from worker.settings import Settings

MAX_LISTED = 500

_KNOWN: Responses = {200: {"model": shapes.Queued, "description": "The job is known already."}}
_STREAM: Responses = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events."}}


def job_routes(service: Service, state: State, settings: Settings) -> APIRouter:
    """Everything that is about jobs."""
    router = APIRouter(responses=refused(400, 401, 421, 422, 503), dependencies=[Depends(only_known_parameters)])
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
            key=idempotency_key(request),
            client=request.scope["state"]["client"],
            passed=passed_headers(request),
        )
        headers = {"Location": f"/status/{sent.job_id}?girl_id={sent.girl_id}"}
        if sent.repeated:
            headers["Idempotency-Replayed"] = "true"
        answer = shapes.Queued(job_id=sent.job_id, status=sent.status)
        return as_json(answer, 200 if sent.repeated else 202, headers)

    @router.get("/status/{job_id}", response_model=shapes.JobState, responses=refused(404, 422, 429))
    async def status(request: Request, job_id: JobId, girl_id: GirlId = None) -> Response:
        """What is known of a job."""
        state.require_loaded()
        return as_json(shapes.JobState.of(await service.status(job_id, girl_id, request.scope["state"]["client"])))

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
        ended = await service.cancel(job_id, reason, request.scope["state"]["client"], passed_headers(request))
        word = "cancellation_requested" if ended is None else ended.value
        return as_json(shapes.CancellationSent(job_id=job_id, status=word), 202)

    @router.get("/jobs", response_model=shapes.JobList, responses=refused(422))
    async def jobs(
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
        status: JobStatus | None = None,
        lane: LaneName = None,
        girl_id: GirlId = None,
    ) -> Response:
        """The jobs that are remembered: those that are not finished, then the latest ones that are."""
        state.require_loaded()
        wanted = Filter(lane, girl_id, status)
        found = (entry.event for entry in service.board.latest() if wanted(entry.event))
        return as_json(shapes.JobList(jobs=[shapes.JobState.of(event) for event in islice(found, limit)]))

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
        wanted = Filter(lane, girl_id)
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
        return as_json(shapes.Queue(lanes=lanes, complete=service.board.complete))

    @router.get("/profiles", response_model=shapes.ProfileList)
    async def profiles() -> Response:
        """The girl_ids that have a profile of their own."""
        known = service.admission.rules.profiles
        names = [
            shapes.ProfileName(name=name, description=profile.description)
            for name, profile in known or ()
            if name != DEFAULT
        ]
        return as_json(shapes.ProfileList(profiles=names))

    return router


def _listen(service: Service, job_id: str | None, wanted: Wanted = lambda _: True) -> Listener:
    try:
        return service.hub.listen(job_id, wanted)
    except TooManyStreams:
        raise try_later("as many event streams as GATEWAY_MAX_STREAMS are open", 10) from None
