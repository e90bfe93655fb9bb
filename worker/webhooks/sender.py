"""One signed HTTP request to the receiver. Redirects, cookies, proxies and netrc files do not count."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx2

from worker import __version__
from worker.webhooks.answers import Answer, retry_after_s
from worker.webhooks.payload import Payload
from worker.webhooks.signature import sign

REASON_BYTES = 200
_REASON_CHARS = 200


class Sender:
    """A pool of connections to the receiver; used as an async context manager.

    Args:
        url: the receiver.
        keys: what the requests are signed with, each of them.
        timeout_s: the longest time of a whole attempt.
        concurrency: the largest number of connections.
    """

    def __init__(self, url: str, keys: Sequence[bytes], timeout_s: float, concurrency: int) -> None:
        self._url = url
        self._keys = tuple(keys)
        self._timeout_s = timeout_s
        self._client = httpx2.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            verify=ssl.create_default_context(),
            timeout=httpx2.Timeout(timeout_s),
            limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            headers={
                "user-agent": f"sdxl-worker/{__version__}",
                "content-type": "application/json",
                "accept-encoding": "identity",
            },
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def send(self, payload: Payload, now_s: float) -> Answer:
        """Make one attempt; what goes wrong is an answer too.

        Args:
            now_s: epoch seconds; receivers refuse what is older than some minutes, so each attempt has its own.
        """
        headers = payload.headers | sign(payload.webhook_id, int(now_s), payload.body, self._keys)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(payload.body, headers)
        except (TimeoutError, httpx2.TimeoutException):
            return Answer(None, f"no answer within {self._timeout_s:g} s")
        except (httpx2.HTTPError, OSError) as error:
            return Answer(None, f"{type(error).__name__}: {str(error)[:_REASON_CHARS]}")

    async def _post(self, body: bytes, headers: dict[str, str]) -> Answer:
        self._client.cookies.clear()
        async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
            after_s = retry_after_s(response.headers.get("retry-after"))
            return Answer(response.status_code, await _beginning(response), after_s)


async def _beginning(response: httpx2.Response) -> str:
    """The first bytes of the body, for the log. The rest is not read, however long it is."""
    read = b""
    async for chunk in response.aiter_raw():
        read += chunk[:REASON_BYTES]
        if len(read) >= REASON_BYTES:
            break
    return f"HTTP {response.status_code} {read[:REASON_BYTES].decode('utf-8', 'replace')}".strip()
