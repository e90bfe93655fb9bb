"""The verb as a process, the settings that it needs, and the receiver of the documentation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from devtools.local.kafka import KafkaCluster
from devtools.local.process import ChildProcess, free_port
from tests.webhooks.events import completed, failed
from tests.webhooks.stand_ins import CODEC, Receiver
from worker.events.headers import result_headers
from worker.events.types import GenerationCompleted, GenerationFailed, timestamp
from worker.settings import load_settings
from worker.topic_admin import create_topics
from worker.topics import Topics
from worker.webhooks.payload import payload
from worker.webhooks.signature import sign

ROOT = Path(__file__).resolve().parents[2]
SECRET = "whsec_" + "c2VjcmV0" * 5
OTHER_SECRET = "whsec_" + "b3RoZXIh" * 5


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)


class TestOnRealKafka:
    @pytest.fixture
    def places(self, kafka: KafkaCluster, topics: Topics) -> Topics:
        create_topics(kafka.bootstrap_servers, topics, partitions=2)
        return topics

    @pytest.fixture
    def start(self, kafka: KafkaCluster, places: Topics, tmp_path: Path) -> Iterator[Callable[[str], ChildProcess]]:
        started: list[ChildProcess] = []

        def start(url: str) -> ChildProcess:
            environment = {
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "KAFKA_TOPIC_PREFIX": places.prefix,
                "WEBHOOK_URL": url, "WEBHOOK_SECRET": SECRET, "WEBHOOK_GROUP_ID": f"webhooks-{places.prefix}",
                "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(free_port()),
            }  # fmt: skip
            log = tmp_path / f"webhooks-{len(started)}.log"
            child = ChildProcess("webhooks", [sys.executable, "-m", "worker", "webhooks"], log, env=environment)
            started.append(child)
            child.start()
            return child

        yield start
        for child in started:
            child.stop()

    def test_what_was_committed_is_delivered_once_over_a_restart_and_the_lag_is_zero(
        self, kafka: KafkaCluster, places: Topics, start: Callable[[str], ChildProcess]
    ) -> None:
        publish(kafka, places, completed("one"), failed("two"))
        publish(kafka, places, completed("taken-back"), commit=False)
        with Receiver() as receiver:
            child = start(receiver.url)
            wait_for(lambda: len(receiver.got) == 2, "a webhook")
            wait_for(lambda: lag(kafka, places) == 0, "the end of the lag")
            child.terminate()
            wait_for(lambda: child.exit_code is not None, "the end")
            assert child.exit_code == 0
            publish(kafka, places, completed("three"))
            start(receiver.url)
            wait_for(lambda: len(receiver.got) >= 3, "a webhook")
            assert sorted(receiver.jobs) == ["one", "three", "two"]


def publish(
    kafka: KafkaCluster, topics: Topics, *events: GenerationCompleted | GenerationFailed, commit: bool = True
) -> None:
    """Publish results in one transaction, as a worker does; or take it back."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": f"t-{topics.prefix}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for event in events:
        topic = topics.completed if isinstance(event, GenerationCompleted) else topics.failed
        value, _ = CODEC.encode(event, topic=topic)
        headers: Any = list(result_headers(event, source="/t", now=timestamp(1)))
        producer.produce(topic, value, event.job_id, headers=headers)
    producer.flush(20)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)


def lag(kafka: KafkaCluster, topics: Topics) -> int:
    """Offsets of the senders' group up to the ends of the partitions."""
    client = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": f"webhooks-{topics.prefix}"})
    try:
        places = [TopicPartition(topic, n) for topic in (topics.completed, topics.failed) for n in range(2)]
        ends = [client.get_watermark_offsets(place, timeout=10)[1] for place in places]
        return sum(end - max(found.offset, 0) for end, found in zip(ends, client.committed(places, 10), strict=True))
    finally:
        client.close()


class TestSettings:
    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in list(os.environ):
            if name.startswith(("WEBHOOK_", "KAFKA_")):
                monkeypatch.delenv(name)
        monkeypatch.chdir(tmp_path)

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "worker", "webhooks"]
        given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)

    @pytest.mark.parametrize(
        ("environment", "named"),
        [
            ({}, "WEBHOOK_URL"),
            ({"WEBHOOK_URL": "http://127.0.0.1:9/"}, "WEBHOOK_SECRET"),
            ({"WEBHOOK_URL": "ftp://hush/", "WEBHOOK_SECRET": SECRET}, "WEBHOOK_URL"),
            ({"WEBHOOK_URL": "http://127.0.0.1:9/", "WEBHOOK_SECRET": "hush"}, "WEBHOOK_SECRET"),
        ],
    )
    def test_what_is_missing_or_wrong_is_one_line(self, environment: dict[str, str], named: str) -> None:
        ended = self.run(**environment)
        assert ended.returncode == 2
        [line] = ended.stderr.splitlines()
        assert named in line
        assert "hush" not in line

    def test_url_and_secrets_are_never_printed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEBHOOK_URL", "https://hooks.example/token-0451")
        monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
        monkeypatch.setenv("WEBHOOK_SECRET_PREVIOUS", OTHER_SECRET)
        shown = repr(load_settings())
        assert not [text for text in ("token-0451", SECRET, OTHER_SECRET) if text in shown]

    def test_no_torch_is_loaded(self) -> None:
        code = "import sys, worker.cli.webhooks, worker.webhooks.start; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0


class TestTheReceiverOfTheDocumentation:
    @pytest.fixture
    def post(self, tmp_path: Path) -> Iterator[Callable[[bytes, dict[str, str]], int]]:
        [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL)
        script, port = tmp_path / "receiver.py", free_port()
        script.write_text(code)
        environment = {"PORT": str(port), "WEBHOOK_SECRETS": f"{OTHER_SECRET} {SECRET}"}
        self.log = tmp_path / "receiver.log"
        child = ChildProcess("receiver", [sys.executable, str(script)], self.log, env=environment)
        child.start()

        def post(body: bytes, headers: dict[str, str]) -> int:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", body, headers)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code
            except OSError:
                return 0

        wait_for(lambda: post(b"{}", {}) == 401, "the receiver")
        yield post
        child.stop()

    def test_it_takes_what_is_signed_and_nothing_else(self, post: Callable[[bytes, dict[str, str]], int]) -> None:
        from worker.settings_checks import signing_secret

        key, now = signing_secret(SECRET), int(time.time())
        sent = payload(completed("job-1"), (), ("t", 0, 0))
        signed = sign(sent.webhook_id, now, sent.body, [b"unknown" * 5, key])
        assert post(sent.body, signed) == 204
        assert post(sent.body, signed) == 204
        assert post(sent.body + b" ", signed) == 401
        assert post(sent.body, signed | {"webhook-id": "another"}) == 401
        assert post(sent.body, sign(sent.webhook_id, now, sent.body, [b"unknown" * 5])) == 401
        assert post(sent.body, sign(sent.webhook_id, now - 900, sent.body, [key])) == 401
        assert self.log.read_text().count("generation.completed job-1 https://cdn.example/job-1.jpg") == 1
