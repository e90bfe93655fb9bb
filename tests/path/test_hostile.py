"""One worker, a thousand records, every tenth hostile in another way: the worker stays, and nothing else is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs do not mark re-exports
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.harness import Client, Site, WorkerProcess
from tests.hostile_records import HOSTILE_RECORDS, encoded
from worker.events.types import GenerationFailed
from worker.topics import Topics

RECORDS = 1000
# The brokers take no dead letter larger than this, and no status larger than that.
DEAD_LETTER_BYTES = 20_000
STATUS_BYTES = 2_000

Send = Callable[[Producer, str, str], None]


def sending(make: Callable[[str], bytes | None], **record: object) -> Send:
    """Send what `make` gives for a job id, under that id as the key unless `record` has another."""

    def send(producer: Producer, topic: str, job_id: str) -> None:
        options = {"key": job_id.encode(), **record}
        producer.produce(topic, value=make(job_id), **options)  # type: ignore[arg-type]

    return send


def kcat_with_an_unreadable_header(topic: str, job_id: str, value: bytes) -> None:
    command = ["kcat", "-b", os.environ["HOSTILE_BROKER"], "-P", "-t", topic, "-k", job_id]
    # From a file, since kcat takes lines of standard input for records.
    file = Path(os.environ["HOSTILE_FILES"]) / job_id
    file.write_bytes(value)
    arguments = [os.fsencode(argument) for argument in [*command, "-H"]]
    subprocess.run([*arguments, b"\xff\xfe=x", os.fsencode(file)], check=True, capture_output=True)


def with_an_unreadable_header(_producer: Producer, topic: str, job_id: str) -> None:
    kcat_with_an_unreadable_header(topic, job_id, b"no avro either")


def with_an_unreadable_header_on_a_good_request(_producer: Producer, topic: str, job_id: str) -> None:
    kcat_with_an_unreadable_header(topic, job_id, encoded(job_id=job_id))


# What is sent, and how it ends: completed, a code, or dead-letter.
HOSTILE: dict[str, tuple[str, Send]] = {
    **{name: (record.end, sending(record.value, **record.options)) for name, record in HOSTILE_RECORDS.items()},
    "a header name that is not UTF-8": ("dead-letter", with_an_unreadable_header),
    "the same on a good request": ("completed", with_an_unreadable_header_on_a_good_request),
    "a job_id of 600 KB": ("invalid_request", sending(lambda job_id: encoded(job_id=job_id + "x" * 600_000))),
    "a key of 500 KB": ("completed", sending(lambda job_id: encoded(job_id=job_id), key=b"k" * 500_000)),
    "no key": ("completed", sending(lambda job_id: encoded(job_id=job_id), key=None)),
}


def limit(servers: str, topic: str, max_bytes: int) -> None:
    """Let the brokers take no larger batch for `topic`."""
    entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(20)


def stand_in(site: Site, name: str, logs: Path, **settings: str) -> WorkerProcess:
    """The real worker with an engine that makes a picture in a millisecond."""
    chaos = {
        "CHAOS_ENGINE": "stand-in",
        "CHAOS_PICTURE_S": "0.001",
        "PYTHONFAULTHANDLER": "1",
        "CHAOS_WORK_LOG": str(logs / "work.log"),
        "CHAOS_TRACE": str(logs / "trace.log"),
    }
    environment = {**site.worker(name).environment, **chaos, **settings}
    return WorkerProcess(name, environment, logs / f"{name}.log", ["-m", "tests.chaos.worker_main"])


@pytest.fixture
def client(apache_site: Site) -> Iterator[Client]:
    client = Client(apache_site)
    yield client
    client.close()


def ends(client: Client) -> dict[str, list[str]]:
    """How each record ended, by its job id, or by its key where it is a dead letter."""
    found: dict[str, list[str]] = {}
    for result in client.results:
        if result.event is None:
            place = f"{result.headers['dlq-topic']}/{result.headers['dlq-partition']}@{result.headers['dlq-offset']}"
            found.setdefault(place, []).append("dead-letter")
        else:
            code = result.event.error_code.value if isinstance(result.event, GenerationFailed) else "completed"
            found.setdefault(result.event.job_id[:40], []).append(code)
    return found


def test_a_thousand_records_every_tenth_hostile(
    apache_site: Site, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("kcat") is None:
        pytest.skip("kcat, which writes header names that are not UTF-8, is not installed")
    servers, topics = apache_site.broker.bootstrap_servers, apache_site.topics
    monkeypatch.setenv("HOSTILE_BROKER", servers)
    monkeypatch.setenv("HOSTILE_FILES", str(tmp_path))
    producer = Producer({"bootstrap.servers": servers, "message.max.bytes": 2_000_000})
    expected: Counter[str] = Counter()
    kinds = list(HOSTILE.values())
    with stand_in(apache_site, "brave", tmp_path) as worker:
        # Not before, since a worker does not start on such limits.
        limit(servers, topics.dead_letter, DEAD_LETTER_BYTES)
        limit(servers, topics.status, STATUS_BYTES)
        for number in range(RECORDS):
            topic = topics.requests[number % 3]
            job_id = f"job-{number}-{uuid.uuid4().hex[:8]}"
            if number % 10:
                producer.produce(topic, key=job_id.encode(), value=encoded(job_id=job_id))
                expected["completed"] += 1
            else:
                end, send = kinds[number // 10 % len(kinds)]
                send(producer, topic, job_id)
                expected[end] += 1
            producer.poll(0)
        assert producer.flush(60) == 0
        client.wait_for(lambda results: len(results) >= RECORDS, 180)
        client.settle(1.0)
        found = ends(client)
        assert all(len(of_one) == 1 for of_one in found.values()), [k for k, v in found.items() if len(v) != 1]
        assert Counter(end for of_one in found.values() for end in of_one) == expected
        assert worker.running
        assert worker.get("/health")[0] == 200
        # Nothing that was waiting counts from 1970.
        waits = [
            line for line in worker.get("/metrics")[1].splitlines() if line.startswith("sdxl_worker_wait_seconds_sum")
        ]
        assert waits
        assert sum(float(line.split()[-1]) for line in waits) < RECORDS * 180
        assert worker.terminate() == 0


def test_a_dead_letter_topic_that_is_missing_holds_back_only_what_it_must(
    apache_site: Site, client: Client, tmp_path: Path
) -> None:
    servers, topics = apache_site.broker.bootstrap_servers, apache_site.topics
    admin = AdminClient({"bootstrap.servers": servers})
    with stand_in(apache_site, "patient", tmp_path) as worker:
        admin.delete_topics([topics.dead_letter])[topics.dead_letter].result(20)
        client.send(topics.urgent, b"bad", b"no avro")
        good = [client.request(lane).job_id for lane in ("urgent", "high", "normal") for _ in range(5)]
        client.wait_for(lambda _: all(client.of(job_id) for job_id in good))
        client.settle(3.0)
        code, body = worker.get("/ready")
        assert code == 503
        assert topics.dead_letter in body
        assert worker.get("/health")[0] == 200
        apache_site.broker.create_topics(Topics(topics.prefix))
        late = Client(apache_site)
        letter = late.one("bad", 120)
        late.close()
        assert letter.value == b"no avro"
        assert worker.terminate() == 0


def test_results_go_on_while_the_status_topic_is_deleted_and_made_again(
    apache_site: Site, client: Client, tmp_path: Path
) -> None:
    servers, topics = apache_site.broker.bootstrap_servers, apache_site.topics
    admin = AdminClient({"bootstrap.servers": servers})

    def all_completed(number: int) -> None:
        jobs = [client.request(lane).job_id for lane in ("urgent", "high", "normal") for _ in range(number)]
        client.wait_for(lambda _: all(client.of(job_id) for job_id in jobs), 60)

    with stand_in(apache_site, "steady", tmp_path) as worker:
        all_completed(2)
        admin.delete_topics([topics.status])[topics.status].result(20)
        all_completed(5)
        all_completed(5)
        apache_site.broker.create_topics(Topics(topics.prefix))
        all_completed(5)
        assert worker.get("/health")[0] == 200
        assert worker.terminate() == 0
