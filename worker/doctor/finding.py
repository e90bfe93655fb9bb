"""What a check has found: one line, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a line ends, from the best to the worst.

    `skipped`: nothing was looked at, since something else has to be put right first, or is not configured.
    """

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILED = "failed"


_RISING = (Level.OK, Level.SKIPPED, Level.WARNING, Level.FAILED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Args:
        subject: what was looked at, such as `topics`.
        advice: what to do; empty where there is nothing to do.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """All is as it should be."""
    return Finding(Level.OK, subject, text)


def skipped(subject: str, text: str) -> Finding:
    """It was not looked at."""
    return Finding(Level.SKIPPED, subject, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """A worker runs, but not as one would wish."""
    return Finding(Level.WARNING, subject, text, advice)


def failed(subject: str, text: str, advice: str) -> Finding:
    """A worker does not start, or does not work."""
    return Finding(Level.FAILED, subject, text, advice)


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level of all."""
    return max((finding.level for finding in findings), key=_RISING.index, default=Level.OK)
