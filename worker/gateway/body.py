"""Reading the body of a request: only JSON, only so large, only so slowly."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from worker.gateway.refusals import Refusal

TIMEOUT_S = 10.0
# What is left of the body is not read.
_CLOSE = {"Connection": "close"}


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request, at most `limit` bytes.

    Raises:
        Refusal: 415, another content type; 413, too large; 408, too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page of another origin can send every other type without asking first.
        raise Refusal(415, "send JSON, with the header Content-Type: application/json", "Content-Type", headers=_CLOSE)
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and (len(stated) > 18 or int(stated) > limit):
        raise _too_large(limit)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {TIMEOUT_S:g} s", headers=_CLOSE) from None
    except ClientDisconnect:
        raise Refusal(400, "the connection ended before the body", headers=_CLOSE) from None
    return b"".join(chunks)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the body is larger than {limit} bytes (GATEWAY_MAX_BODY_BYTES)", headers=_CLOSE)
