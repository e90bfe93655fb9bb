"""Signatures of webhooks, as https://www.standardwebhooks.com/ describes them. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence


def sign(webhook_id: str, timestamp_s: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers that identify and sign a request, with a signature for each key.

    Args:
        webhook_id: the same in every attempt; it holds no dot.
        timestamp_s: of this attempt, in seconds since the epoch.
    """
    signed = f"{webhook_id}.{timestamp_s}.".encode() + body
    signatures = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
