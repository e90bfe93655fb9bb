"""Streams the completed and failed topics into a tally, on several processes where there is much to read."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context

from confluent_kafka import Message

from worker.client.connection import Connection
from worker.client.ranges import Range, RangeReader
from worker.errors import UndecodableError
from worker.events.codec import EventCodec, make_codec
from worker.events.record_headers import read_headers
from worker.events.single_object import MARKER
from worker.events.types import GenerationCompleted, GenerationFailed, timestamp
from worker.report.tally import Tally
from worker.settings import Settings
from worker.topics import Topics

# A result's record is written some time after its `completed_at`: at most as long as Kafka was away.
SLACK_MS = 6 * 3_600_000
# Below this, starting processes costs more than it saves.
WORTH_PROCESSES = 100_000
MAX_PROCESSES = 8


@dataclass(slots=True)
class Reading:
    """The tally, and how much was read for it.

    Args:
        offsets: that were passed over; transaction markers are among them.
    """

    tally: Tally
    offsets: int = 0


def read_results(connection: Connection, tally: Tally, note: Callable[[str], None]) -> Reading:
    """Read all results of the tally's window.

    Args:
        note: told how far it is.

    Raises:
        CommandError: Kafka does not answer, or a topic does not exist.
    """
    topics = (connection.topics.completed, connection.topics.failed)
    reader = RangeReader(connection)
    with closing(reader):
        until_ms = None if tally.until is None else _millis(tally.until) + SLACK_MS
        ranges = reader.ranges(topics, None if tally.since is None else _millis(tally.since), until_ms)
        reading = Reading(tally, sum(one.end - one.first for one in ranges))
        shares = _shares(ranges, reading.offsets)
        if len(shares) == 1:
            count_ranges(reader, connection.codec, ranges, tally, note)
            return reading
    note(f"{reading.offsets} offsets on {len(shares)} processes")
    empty = Tally(tally.since, tally.until, tally.hourly_usd)
    with ProcessPoolExecutor(len(shares), get_context("spawn"), initializer=_end_silently) as pool:
        for part in pool.map(_count_share, [(connection.settings, share, empty) for share in shares]):
            tally.merge(part)
    return reading


def count_ranges(
    reader: RangeReader, codec: EventCodec, ranges: Sequence[Range], tally: Tally, note: Callable[[str], None]
) -> None:
    """Count the results of the ranges."""
    # Partitions whose oldest records have expired: the first one that is read tells until when.
    cut = {(one.topic, one.partition) for one in ranges if one.low > 0 and one.first <= one.low}
    for number, message in enumerate(reader.read(ranges)):
        if number % 10_000 == 0:
            note(f"{number} records read")
        place = (str(message.topic()), message.partition() or 0)
        if place in cut:
            cut.discard(place)
            kind, moment_ms = message.timestamp()
            if kind:
                tally.begins_at(place[0], timestamp(moment_ms / 1000))
        _count(codec, message, tally)


def _count(codec: EventCodec, message: Message, tally: Tally) -> None:
    value = message.value()
    # Only the registry's framing may have its schema id in a header, and reading headers takes a while.
    headers = None if value is None or value.startswith(MARKER) else read_headers(message)
    try:
        event = codec.decode_any(value, topic=message.topic(), headers=headers)
    except UndecodableError:
        tally.undecodable += 1
        return
    if isinstance(event, GenerationCompleted | GenerationFailed):
        tally.add(event)
    else:
        tally.undecodable += 1


def _count_share(work: tuple[Settings, Sequence[Range], Tally]) -> Tally:
    """The same in a process of its own."""
    settings, ranges, tally = work
    with closing(make_codec(settings)) as codec:
        reader = RangeReader(Connection(settings, Topics(settings.kafka_topic_prefix), codec))
        with closing(reader):
            count_ranges(reader, codec, ranges, tally, lambda _text: None)
    return tally


def _end_silently() -> None:
    """Ctrl-C reaches these processes, too: they end at once, and without a traceback each."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _shares(ranges: Sequence[Range], offsets: int) -> list[list[Range]]:
    """The ranges divided among processes: the largest first, each to the process that has the least."""
    wanted = 1 if offsets < WORTH_PROCESSES else min(processors(), MAX_PROCESSES, len(ranges))
    shares: list[list[Range]] = [[] for _ in range(max(wanted, 1))]
    for one in sorted(ranges, key=lambda one: one.first - one.end):
        min(shares, key=lambda share: sum(other.end - other.first for other in share)).append(one)
    return [share for share in shares if share] or [[]]


def processors() -> int:
    """The processors of this machine."""
    return os.cpu_count() or 1


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
