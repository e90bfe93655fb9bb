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

import pytest
from confluent_kafka import Producer

from devtools.local.embedded import EmbeddedBroker
from devtools.local.process import ChildProcess, free_port
from tests.webhooks.events import completed, failed
from tests.webhooks.stand_ins import CODEC, COMPLETED, FAILED, Receiver
from worker.events.headers import result_headers
from worker.events.types import GenerationCompleted, GenerationFailed, timestamp
from worker.settings import load_settings
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


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as found:
        found.create_topics(partitions=2)
        yield found


def publish(broker: EmbeddedBroker, *events: GenerationCompleted | GenerationFailed) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for event in events:
        topic = COMPLETED if isinstance(event, GenerationCompleted) else FAILED
        value, _ = CODEC.encode(event, topic=topic)
        producer.produce(topic, value, event.job_id, headers=list(result_headers(event, source="/t", now=timestamp(1))))
    assert producer.flush(20) == 0


class TestProcess:
    @pytest.fixture
    def start(self, broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Callable[[str], ChildProcess]]:
        started: list[ChildProcess] = []

        def start(url: str) -> ChildProcess:
            environment = {
                "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers, "KAFKA_GROUP_PROTOCOL": "classic",
                "KAFKA_FETCH_WAIT_MAX_MS": "10", "KAFKA_SESSION_TIMEOUT_MS": "6000",
                "WEBHOOK_URL": url, "WEBHOOK_SECRET": SECRET,
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

    def test_it_delivers_ends_at_sigterm_and_goes_on_where_it_was(
        self, broker: EmbeddedBroker, start: Callable[[str], ChildProcess]
    ) -> None:
        publish(broker, completed("one"), failed("two"))
        with Receiver() as receiver:
            child = start(receiver.url)
            wait_for(lambda: len(receiver.got) == 2, "a webhook")
            child.terminate()
            wait_for(lambda: child.exit_code is not None, "the end")
            assert child.exit_code == 0
            publish(broker, completed("three"))
            start(receiver.url)
            wait_for(lambda: len(receiver.got) >= 3, "a webhook")
            assert sorted(receiver.jobs) == ["one", "three", "two"]


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
