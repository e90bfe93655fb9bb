"""The headers of dead letters: ours in text, Spring Kafka's in its own forms, and what is read back of them."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.cluster.check import DEAD_LETTER_HEADERS_MAX_BYTES
from worker.events.dead_letters import (
    MAX_ERROR_CHARS,
    RESUBMITTED_FROM,
    dead_letter_headers,
    original_headers,
    read_dead_letter,
    resubmission_headers,
    resubmission_of,
)

PLACE = ("generation.requests.high", 3, 2**40)


def letter(headers: Any, **changes: Any) -> Any:
    given: dict[str, Any] = {"partition": 1, "offset": 7, "key": b"k", "value": b"v", "timestamp_ms": 5}
    return read_dead_letter(headers=headers, **(given | changes))


def test_spring_kafka_and_people_read_the_same() -> None:
    headers = dict(dead_letter_headers(*PLACE, 1_700_000_000_123, "starts\nwith 7b", group="sdxl-worker"))
    assert headers["dlq-topic"] == headers["kafka_dlt-original-topic"] == b"generation.requests.high"
    assert headers["dlq-error"] == headers["kafka_dlt-exception-message"] == b"starts with 7b"
    assert headers["kafka_dlt-original-consumer-group"] == b"sdxl-worker"
    # DeadLetterPublishingRecoverer: ByteBuffer.putInt and putLong, which are big-endian.
    assert int(headers["dlq-partition"]) == struct.unpack(">i", headers["kafka_dlt-original-partition"])[0] == 3
    assert int(headers["dlq-offset"]) == struct.unpack(">q", headers["kafka_dlt-original-offset"])[0] == 2**40
    timestamp = struct.unpack(">q", headers["kafka_dlt-original-timestamp"])[0]
    assert int(headers["dlq-timestamp"]) == timestamp == 1_700_000_000_123


def test_a_record_without_a_time_says_none() -> None:
    headers = dict(dead_letter_headers(*PLACE, None, "x", group=None))
    assert not [name for name in headers if "timestamp" in name or "group" in name]


def test_what_is_added_stays_short() -> None:
    headers = dead_letter_headers("t" * 249, 2**31 - 1, 2**63 - 1, 2**62, "😀" * 10_000, group="g" * 200)
    assert dict(headers)["dlq-error"].decode() == "😀" * (2 * MAX_ERROR_CHARS // 4)
    assert sum(len(name) + len(value) for name, value in headers) < DEAD_LETTER_HEADERS_MAX_BYTES - 256


def test_the_origin_is_read_from_either_kind() -> None:
    both = dead_letter_headers(*PLACE, 9, "why", group="g")
    for prefix in ("dlq-", "kafka_dlt-"):
        found = letter([(name, value) for name, value in both if name.startswith(prefix)])
        assert (found.origin, found.error, found.original_timestamp_ms) == (PLACE, "why", 9)


def test_a_letter_of_a_stranger_has_no_origin() -> None:
    for headers in (
        None,
        [],
        [("dlq-topic", b"t")],
        [("dlq-topic", b"t"), ("dlq-partition", b"x"), ("dlq-offset", b"")],
    ):
        assert letter(headers).origin is None


def test_a_letter_that_comes_back_names_its_last_origin() -> None:
    first = dead_letter_headers("a", 1, 1, 1, "first", group=None)
    second = dead_letter_headers("b", 2, 2, 2, "second", group=None)
    assert letter([*first, *second]).origin == ("b", 2, 2)


def test_resubmitting_gives_back_the_original_headers() -> None:
    own = (("traceparent", b"00-x"), ("worker-id", b"theirs"), ("empty", None))
    assert original_headers(own) == own
    added = (*dead_letter_headers(*PLACE, 1, "x", group="g"), ("worker-id", b"w1"), (RESUBMITTED_FROM, b"y"))
    assert original_headers((("traceparent", b"00-x"), *added)) == (("traceparent", b"00-x"),)


def test_the_identity_is_that_of_the_original_record() -> None:
    headers = dead_letter_headers(*PLACE, 9, "why", group="g")
    # Two letters of one record, which at-least-once delivery can write.
    twin = letter(dead_letter_headers(*PLACE, 9, "another worker's reason", group="g"), partition=2, offset=99)
    assert letter(headers).identity == twin.identity
    for other in (
        letter(dead_letter_headers(PLACE[0], 3, 1, 9, "why", group="g")),
        letter(dead_letter_headers(*PLACE, 10, "why", group="g")),
        letter(headers, value=b"w"),
        letter(headers, key=None),
    ):
        assert other.identity != letter(headers).identity
    assert letter([]).identity != letter([], offset=8).identity


def test_a_resubmission_is_told_from_a_letter() -> None:
    found = letter(dead_letter_headers(*PLACE, 9, "why", group="g"))
    assert resubmission_of(found.headers) is None
    assert resubmission_of(resubmission_headers(found, "t/0")) == found.identity


NAMES = st.sampled_from(
    ["dlq-partition", "dlq-offset", "dlq-timestamp", "dlq-topic", "dlq-value-bytes", "kafka_dlt-original-offset"]
)


@given(st.lists(st.tuples(NAMES, st.binary() | st.none())))
def test_nothing_in_the_headers_makes_reading_fail(headers: list[tuple[str, bytes | None]]) -> None:
    assert letter(headers).identity
