"""The examples in four languages on a real Kafka: their bytes are the worker's, and they see each event once."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from devtools.local.kafka import KafkaCluster
from devtools.local.process import ChildProcess
from tests.events.strategies import NOW, sample
from tests.examples.languages import EXAMPLES, commands
from worker.errors import ErrorCode
from worker.events.headers import result_headers
from worker.events.schemas import current
from worker.events.single_object import MARKER, SingleObjectCodec
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationRequest
from worker.topic_admin import create_topics
from worker.topics import Topics

LANGUAGES = ("python", "node", "java", "go")
CODEC = SingleObjectCodec()
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def place(kafka: KafkaCluster) -> dict[str, str]:
    """Topics of these tests' own, as the environment names them."""
    create_topics(kafka.bootstrap_servers, Topics("examples."), partitions=2)
    return {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": "examples.",
        "SCHEMAS": str(EXAMPLES.parent / "schemas"),
    }


@pytest.fixture(scope="module")
def results(place: dict[str, str]) -> None:
    """A picture, told twice; a failure; and a picture of a transaction that was aborted."""
    producer = Producer({"bootstrap.servers": place["KAFKA_BOOTSTRAP_SERVERS"], "transactional.id": "examples"})
    producer.init_transactions(20)
    _write(producer, _picture("aborted"), commit=False)
    _write(producer, _picture("order-1"))
    _write(producer, _picture("order-1"))
    failed = sample(
        GenerationFailed, job_id="order-2", error_code=ErrorCode.INVALID_REQUEST, error_message="prompt is empty"
    )
    _write(producer, failed)


def _picture(job_id: str) -> Any:
    return sample(GenerationCompleted, job_id=job_id, image_url=f"https://pictures.example/{job_id}.jpg", user_id=2**40)


def _write(producer: Producer, event: Any, *, commit: bool = True) -> None:
    topic = Topics("examples.").completed if isinstance(event, GenerationCompleted) else Topics("examples.").failed
    producer.begin_transaction()
    value, _ = CODEC.encode(event, topic=topic)
    headers: Any = list(result_headers(event, source="/tests", now=NOW))
    producer.produce(topic, key=event.job_id.encode(), value=value, headers=headers)
    assert producer.flush(20) == 0
    producer.commit_transaction(20) if commit else producer.abort_transaction(20)


@pytest.fixture(scope="module")
def requests(place: dict[str, str]) -> Iterator[Consumer]:
    """Reads the request topic from its beginning."""
    topic = Topics("examples.").normal
    consumer = Consumer(
        {"bootstrap.servers": place["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "unused", "auto.offset.reset": "earliest"}
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(2)])
    yield consumer
    consumer.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_producer_writes_the_bytes_that_the_worker_would(
    language: str, place: dict[str, str], requests: Consumer
) -> None:
    job_id = f"order-{language}"
    done = subprocess.run(
        [*commands(language).producer, "a lighthouse at dusk"],
        env={**os.environ, **place, "JOB_ID": job_id}, capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{job_id}\n"), done.stderr
    record = requests.poll(TIMEOUT_S)
    assert record is not None
    assert record.key() == job_id.encode()
    request = GenerationRequest(
        job_id=job_id, girl_id="luna", user_id=1, prompt="a lighthouse at dusk", width=512, height=512
    )
    assert record.value() == CODEC.encode(request, topic=Topics().normal)[0]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.usefixtures("results")
def test_a_notifier_tells_each_committed_event_once(language: str, place: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "notifier.log"
    child = ChildProcess(f"{language} notifier", commands(language).notifier, log, env=place)
    child.start()
    try:
        child.wait_until(lambda: _committed(place, f"notifier-{language}") == 3, TIMEOUT_S)
    finally:
        child.stop()
    lines = [line for line in log.read_text().splitlines() if line.startswith(("completed ", "failed "))]
    assert sorted(lines) == [
        "completed order-1 https://pictures.example/order-1.jpg",
        "failed order-2 invalid_request prompt is empty",
    ]


def _committed(place: dict[str, str], group: str) -> int:
    """How many committed records the group has behind it; markers and the aborted one do not count."""
    servers = place["KAFKA_BOOTSTRAP_SERVERS"]
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False})
    try:
        names = (Topics("examples.").completed, Topics("examples.").failed)
        positions = consumer.committed([TopicPartition(name, p) for name in names for p in range(2)], timeout=10)
        return sum(_records_below(place, position) for position in positions if position.offset > 0)
    finally:
        consumer.close()


def _records_below(place: dict[str, str], position: TopicPartition) -> int:
    """Committed records of a partition below an offset."""
    reader = Consumer({"bootstrap.servers": place["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "unused",
                       "enable.partition.eof": True})  # fmt: skip
    try:
        reader.assign([TopicPartition(position.topic, position.partition, 0)])
        count = 0
        while (record := reader.poll(10)) is not None and record.error() is None:
            count += (record.offset() or 0) < position.offset
        return count
    finally:
        reader.close()


def test_headers_that_the_examples_write_down_are_those_of_the_schemas() -> None:
    known = {(MARKER + schema.fingerprint).hex() for schema in current().values()}
    sources = [path for path in shipped() if path.suffix in (".py", ".js", ".java", ".go")]
    found = {header for path in sources for header in re.findall(r"c301[0-9a-f]{16}", path.read_text())}
    assert found
    assert found <= known


def test_no_file_of_the_examples_names_a_registry() -> None:
    hosts = re.compile(r"registry\.npmjs|repo\d?\.maven|proxy\.golang|pypi\.org|\"resolved\"")
    for path in shipped():
        assert not hosts.search(path.read_text()), path


def shipped() -> list[Path]:
    """The files of the examples, without what npm and Maven put beside them for who follows the README."""
    made = {"node_modules", "libs", "package-lock.json", "__pycache__"}
    return [path for path in EXAMPLES.rglob("*") if path.is_file() and made.isdisjoint(path.parts)]
