"""Bearer tokens: who may use the gateway, and how fast."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Callable

from worker.errors import SettingsError
from worker.gateway.refusals import Refusal, try_later

MIN_TOKEN_CHARS = 16
# The name of everybody where there are no tokens.
ANYONE = "local"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/=-]{{{MIN_TOKEN_CHARS},512}}", re.ASCII)  # RFC 6750, section 2.1


class Tokens:
    """Names of clients by their tokens, of which only digests are kept."""

    def __init__(self, text: str | None) -> None:
        """Read the setting.

        Raises:
            SettingsError: an entry is not name:token, or a name or a token stands there twice.
        """
        self._names: dict[str, bytes] = {}
        for number, entry in enumerate((text or "").replace(",", " ").split(), 1):
            name, colon, token = entry.partition(":")
            if not colon or not _NAME.fullmatch(name):
                raise SettingsError(f"GATEWAY_TOKENS: entry {number} is not name:token")
            if not _TOKEN.fullmatch(token):
                raise SettingsError(
                    f"GATEWAY_TOKENS: the token of {name} is not {MIN_TOKEN_CHARS} to 512 of A-Z a-z 0-9 . _ ~ + / = -"
                )
            digest = _digest(token)
            if name in self._names or digest in self._names.values():
                raise SettingsError(f"GATEWAY_TOKENS: {name} or its token stands there twice")
            self._names[name] = digest

    def __bool__(self) -> bool:
        return bool(self._names)

    def name(self, authorization: str | None) -> str:
        """Whose token the header holds. Every token is compared, in a time that tells nothing about any of them.

        Raises:
            Refusal: 401.
        """
        if not self._names:
            return ANYONE
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip())
        found = [name for name, digest in self._names.items() if hmac.compare_digest(digest, given)]
        if scheme.lower() != "bearer" or not found:
            what = (
                "no such token" if authorization else "a token is needed: send the header Authorization: Bearer TOKEN"
            )
            raise Refusal(401, what, "Authorization", headers={"WWW-Authenticate": 'Bearer realm="sdxl-worker"'})
        return found[0]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class RateLimit:
    """A token bucket for each name.

    Args:
        rate_per_s: what a bucket gains.
        burst: what it holds at most.
        now: a clock in seconds.
    """

    def __init__(self, rate_per_s: float, burst: int, now: Callable[[], float]) -> None:
        self._rate = rate_per_s
        self._burst = float(burst)
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> None:
        """Count one request. Raises Refusal: 429, there were too many."""
        now = self._now()
        level, at = self._buckets.get(name, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        if level < 1:
            self._buckets[name] = (level, now)
            wait_s = max(1, math.ceil((1 - level) / self._rate))
            raise try_later(f"more than {self._rate:g} requests a second with this token", wait_s, 429)
        self._buckets[name] = (level - 1, now)
