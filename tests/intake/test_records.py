"""A record's parts are read once, and nothing in a record makes that fail."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer

from devtools.local.embedded import EmbeddedBroker
from worker.intake.records import read_record
from worker.intake.times import NEWEST_S, OLDEST_S, plausible

NOW = 1_800_000_000.0


def read_all(servers: str, count: int) -> list[Message]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe(["records"])
    found: list[Message] = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < deadline
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append(message)
    consumer.close()
    return found


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat, which writes such header names, is not installed")
def test_a_header_name_that_is_not_utf8_costs_the_headers_only(tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_bytes(b"a request")
    with EmbeddedBroker() as broker:
        broker.create_topic("records", 1)
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        # Enough for the interpreter to specialise the call that reads headers.
        for number in range(60):
            producer.produce("records", value=b"good", key=str(number), headers=[("n", str(number))])
        assert producer.flush(20) == 0
        command = ["kcat", "-b", broker.bootstrap_servers, "-P", "-t", "records", "-k", "job-1", "-H"]
        subprocess.run([*map(str.encode, command), b"\xff\xfe=x", bytes(value)], check=True)
        records = [read_record(message, time.time()) for message in read_all(broker.bootstrap_servers, 61)]
    assert [record.headers for record in records] == [*([("n", str(n).encode())] for n in range(60)), None]
    assert (records[-1].key, records[-1].value) == (b"job-1", b"a request")
    assert records[-1].written_at is not None


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        (NOW, True),
        (NOW - 7 * 86_400, True),
        (NOW - OLDEST_S, True),
        (NOW + NEWEST_S, True),
        (NOW + NEWEST_S + 1, False),
        (-0.001, False),  # no timestamp
        (0.001, False),
        (-62_135_596_800.0, False),  # the year 1
        (253_402_300_799.0, False),  # the year 9999
    ],
)
def test_a_time_that_cannot_be_true_is_none(moment: float, told: bool) -> None:
    assert plausible(moment, NOW) == (moment if told else None)
