"""Large records fill a partition's buffer by their bytes."""

from __future__ import annotations

from worker.dispatch.bytes_in_hand import PARTITION_BYTES_MAX, BytesInHand
from worker.dispatch.start import dispatch_settings
from worker.intake.records import Record
from worker.job import Origin
from worker.settings import Settings

KEY = ("requests", 0)


def record(size: int) -> Record:
    return Record(*KEY, 0, b"k", b"x" * (size - 4), [("a", b"12"), ("", None)], None)


def origin(offset: int, partition: int = 0) -> Origin:
    return Origin(KEY[0], partition, offset, 1)


def test_a_partition_is_full_until_enough_of_its_bytes_have_left() -> None:
    held = BytesInHand()
    half = PARTITION_BYTES_MAX // 2
    held.enter(origin(0), record(half))
    held.enter(origin(0), record(half))
    assert not held.are_too_many(KEY), "one record, though it was entered twice"
    held.enter(origin(1), record(half))
    assert held.are_too_many(KEY)
    assert not held.are_too_many(("requests", 1)), "others are not concerned"
    held.leave(origin(1))
    held.leave(origin(1))
    assert not held.are_too_many(KEY)


def test_a_dispatcher_holds_more_than_a_worker() -> None:
    settings = dispatch_settings(Settings(_env_file=None, aws_s3_bucket="b", buffer_per_partition=3))
    assert settings.buffer_per_partition == settings.dispatch_buffer_per_partition == 256
