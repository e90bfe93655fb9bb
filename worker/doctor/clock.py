"""This machine's clock against the `Date` of S3's and the registry's answers. Kafka tells nobody its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from worker.doctor.finding import Finding, failed, ok, skipped, warning
from worker.settings import Settings

SUBJECT = "clock"
ANSWER_S = 8.0
# The header counts whole seconds.
TOLERATED_S = 2.0
# S3 refuses requests beyond this (RequestTimeTooSkewed).
REFUSED_S = 900.0


def check(settings: Settings) -> Iterator[Finding]:
    """Ask for the headers alone, without credentials: a refusal has a date, too."""
    s3 = settings.aws_endpoint_url_s3 or f"https://s3.{settings.aws_region}.amazonaws.com"
    for name, url in (("S3", s3), ("the schema registry", settings.schema_registry_url)):
        if url is not None:
            try:
                yield judge(name, _ahead_s(url))
            except (OSError, HTTPException, ValueError) as error:
                yield skipped(SUBJECT, f"{name} at {url} tells no time ({type(error).__name__})")


def judge(name: str, ahead_s: float) -> Finding:
    """What it means that this machine's clock is `ahead_s` seconds ahead of another's, or behind (negative)."""
    off = abs(ahead_s)
    if off <= TOLERATED_S:
        return ok(SUBJECT, f"agrees with that of {name} within {TOLERATED_S:g} s")
    text = f"{off:.0f} s {'ahead of' if ahead_s > 0 else 'behind'} that of {name}"
    cure = "synchronise this machine's clock (chrony or systemd-timesyncd)"
    if off >= REFUSED_S:
        return failed(SUBJECT, text, f"{cure}: S3 refuses requests that are {REFUSED_S:.0f} s off")
    return warning(SUBJECT, text, f"{cure}: waits, expires_at and signed URLs are reckoned with it")


def _ahead_s(url: str) -> float:
    """How far this clock is ahead of the other one, by the middle of the question. Raises OSError, ValueError."""
    scheme, place = urlsplit(url)[:2]
    connection = (HTTPSConnection if scheme == "https" else HTTPConnection)(place.rpartition("@")[2], timeout=ANSWER_S)
    try:
        asked = time.time()
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
        answered = time.time()
    finally:
        connection.close()
    if date is None:
        raise ValueError("no Date")
    # Cut to the second: on average half a second earlier than it was.
    return (asked + answered) / 2 - (parsedate_to_datetime(date).timestamp() + 0.5)
