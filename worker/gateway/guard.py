"""What every request passes before its path is looked at: host, token, and the headers of every answer."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from urllib.parse import parse_qsl

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.gateway.refusals import Refusal
from worker.gateway.tokens import Tokens

_log = structlog.get_logger()

# Everyone may see these: they hold no secret, and a probe has no token.
OPEN_PATHS = frozenset({"/health", "/ready", "/openapi.json"})
_SECRET_PARAMETERS = frozenset({"token", "access_token", "api_key", "apikey", "authorization", "key"})


class Guard:
    """ASGI middleware. Puts the name of the token into `scope["state"]["client"]`.

    Args:
        page_paths: files of the page, which are open to everyone too.
        policy: the value of Content-Security-Policy.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, page_paths: Iterable[str], policy: str) -> None:
        self._app = app
        self._tokens = tokens
        self._open = OPEN_PATHS | frozenset(page_paths)
        self._headers = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Content-Security-Policy": policy,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        finished = False

        async def answer(message: Message) -> None:
            nonlocal finished
            finished = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            scope.setdefault("state", {})["client"] = self._admitted(scope)
            await self._app(_without_head(scope), receive, answer)
        except Refusal as refusal:
            await refusal.response()(scope, receive, answer)
        except Exception:  # the boundary of the process: a bug costs one answer
            _log.error("request_failed", path=str(scope["path"])[:200], exc_info=True)
            if not finished:
                # The server closes the connection.
                raise

    def _admitted(self, scope: Scope) -> str:
        """The name of the client. Raises Refusal: it may not ask for this."""
        headers = Headers(scope=scope)
        if not self._tokens and not _is_local(headers.get("host", "")):
            # A page of another origin can make its name mean 127.0.0.1 (DNS rebinding).
            raise Refusal(421, "without tokens only this machine is served, under localhost or 127.0.0.1", "Host")
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        twice = next((name for name, count in Counter(name for name, _ in query).items() if count > 1), None)
        if twice is not None:
            raise Refusal(400, "a parameter stands in the query twice", twice[:80])
        named = next((name for name, _ in query if name.lower() in _SECRET_PARAMETERS), None)
        if named is not None:
            raise Refusal(400, "a token does not belong into a URL, which logs keep: send the header Authorization")
        if scope["path"] in self._open:
            return ""
        return self._tokens.name(headers.get("authorization"))


def _without_head(scope: Scope) -> Scope:
    """HEAD is answered like GET, the server leaves out the body; but no stream is opened for it."""
    if scope["method"] != "HEAD" or scope["path"].endswith("/events"):
        return scope
    return {**scope, "method": "GET"}


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
