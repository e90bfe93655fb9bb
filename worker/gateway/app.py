"""The ASGI application, of its parts."""

from __future__ import annotations

import re

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from worker import __version__
from worker.errors import SettingsError
from worker.gateway.api import job_routes
from worker.gateway.guard import Guard
from worker.gateway.measured import Measured, set_gauges
from worker.gateway.probes import metrics_routes, probe_routes
from worker.gateway.refusals import Refusal
from worker.gateway.service import Service
from worker.gateway.state import State
from worker.gateway.static import content_security_policy, page_routes
from worker.gateway.tokens import Tokens
from worker.settings import Settings

_ORIGIN = re.compile(r"https?://[A-Za-z0-9._-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", re.ASCII)
_METHODS = ["GET", "HEAD", "POST", "DELETE"]
_SENT = ["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "traceparent"]
_SHOWN = ["Location", "Retry-After", "Idempotency-Replayed"]


def build_app(service: Service, state: State, settings: Settings, tokens: Tokens) -> ASGIApp:
    """Everything that answers. Swagger's page is left out, since its scripts come from elsewhere."""
    api = FastAPI(
        title="SDXL worker: gateway",
        version=__version__,
        description="Pictures over HTTP; docs/gateway.md says more.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            RequestValidationError: _on_invalid,
            HTTPException: _on_http,
            Refusal: _on_refusal,
            Exception: _on_bug,
        },
    )
    page = page_routes()
    routers = (job_routes(service, state, settings), probe_routes(service, state), metrics_routes(settings), page)
    for router in routers:
        api.include_router(router)
    routes = [*api.routes, *(route for router in routers for route in router.routes)]
    set_gauges(service, state)
    if tokens:
        _require_tokens(api)
    policy = content_security_policy(None if service.pictures is None else service.pictures.example_url)
    guarded = Guard(api, tokens, [route.path for route in page.routes], policy)  # type: ignore[attr-defined]
    origins = read_origins(settings.gateway_cors_origins)
    if not origins:
        return Measured(guarded, routes)
    shared = CORSMiddleware(
        guarded, allow_origins=origins, allow_methods=_METHODS, allow_headers=_SENT, expose_headers=_SHOWN, max_age=600
    )
    return Measured(shared, routes)


def read_origins(text: str) -> list[str]:
    """The origins of the setting. Raises SettingsError: one is none, and would never be that of a page."""
    origins = [origin.strip().rstrip("/") for origin in text.split(",") if origin.strip()]
    wrong = next((origin for origin in origins if origin != "*" and not _ORIGIN.fullmatch(origin)), None)
    if wrong is not None:
        raise SettingsError("GATEWAY_CORS_ORIGINS: an origin is http:// or https://, a name, and a port if it has one")
    return origins


def _require_tokens(api: FastAPI) -> None:
    """Say in the description that a bearer token is needed."""
    describe = api.openapi

    def described() -> dict[str, object]:
        document = describe()
        document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            for operation in methods.values():
                operation["security"] = [] if path in ("/health", "/ready") else [{"token": []}]
        return document

    api.openapi = described  # type: ignore[method-assign]


async def _on_refusal(_request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return refusal.response()


async def _on_bug(_request: Request, _error: Exception) -> Response:
    """Starlette raises the error again once this is sent, and the guard logs it."""
    return Refusal(500, "something unexpected happened; the log of the gateway tells what").response()


async def _on_invalid(_request: Request, error: Exception) -> Response:
    """A path or query parameter, which FastAPI has looked at."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return Refusal(422, f"{name}: {first['msg']}", name).response()


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "there is no such path; /openapi.json lists them", 405: "this path does not know this method"}
    return Refusal(
        error.status_code, sentence.get(error.status_code, str(error.detail)), headers=error.headers
    ).response()
