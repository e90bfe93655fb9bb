"""One record in a hundred is hostile: each time another of the kinds that the test of hostile records sends."""

from __future__ import annotations

from tests.hostile_records import HOSTILE_RECORDS, HostileRecord

HOSTILE_EVERY, _REMAINDER = 100, 23
KINDS = tuple(HOSTILE_RECORDS)
# The `girl_id` of the hostile requests that complete (the default of `tests.harness.small_request`).
GIRL = "luna"


def kind_of(number: int) -> str | None:
    """The kind of hostile record that record `number` is; None for the others."""
    return KINDS[number // HOSTILE_EVERY % len(KINDS)] if number % HOSTILE_EVERY == _REMAINDER else None


def hostile_record(number: int) -> HostileRecord | None:
    """What record `number` sends, if it is hostile."""
    kind = kind_of(number)
    return None if kind is None else HOSTILE_RECORDS[kind]
