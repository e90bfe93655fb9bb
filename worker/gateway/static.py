"""The page: the files of `worker/gateway/page/`, read once, with a policy that lets no foreign script run."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}


def content_security_policy(picture_url: str | None) -> str:
    """The header's value.

    Args:
        picture_url: the address of any picture; its origin is the only foreign one, and only for pictures.
    """
    parts = urlsplit(picture_url or "")
    origin = f" {parts.scheme}://{parts.netloc}" if parts.netloc else ""
    return (
        f"default-src 'self'; img-src 'self' data: blob:{origin}; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'; object-src 'none'"
    )


def page_routes(folder: Path = FOLDER) -> APIRouter:
    """A route for each file of the folder, and `/` for `index.html`; nothing else of the disk can be asked for."""
    router = APIRouter(include_in_schema=False)
    for file in sorted(folder.iterdir()):
        if file.suffix in _TYPES:
            answer = _answer(file.read_bytes(), _TYPES[file.suffix])
            for path in (f"/{file.name}", *(("/",) if file.name == "index.html" else ())):
                router.add_api_route(path, answer, methods=["GET"])
    return router


def _answer(content: bytes, content_type: str) -> Callable[[Request], Awaitable[Response]]:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=content_type, headers=headers)

    return answer
