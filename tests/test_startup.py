"""What a worker finds out before it loads its models."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from devtools.local.embedded import EmbeddedBroker
from devtools.local.process import free_port
from tests.cli.people import WORKER, call, environment
from worker import startup
from worker.errors import SettingsError
from worker.settings import Settings
from worker.startup import FENCED_TIMES, FENCED_WITHIN_S, FenceWatch, WorkerIdTaken, claim_worker_id


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, **({"aws_s3_bucket": "b", "worker_id": "one"} | changes))


@pytest.mark.parametrize("name", ["group.idd", "security.protocol"])
def test_librdkafka_looks_at_the_properties(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        startup.check_settings(settings(kafka_properties={name: "nonsense"}))
    startup.check_settings(settings())


def test_a_property_of_the_producer_alone_is_looked_at_too() -> None:
    with pytest.raises(SettingsError, match=r"partitioner"):
        startup.check_settings(settings(kafka_properties={"partitioner": "nonsense"}))


def test_a_bucket_is_needed() -> None:
    with pytest.raises(SettingsError, match="AWS_S3_BUCKET"):
        startup.check_settings(settings(aws_s3_bucket=None))


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_one_worker_id_is_held_once_on_a_machine() -> None:
    mine = settings(kafka_group_id=f"g-{os.getpid()}")
    claim = claim_worker_id(mine)
    assert claim is not None
    with pytest.raises(WorkerIdTaken, match="WORKER_ID one") as caught:
        claim_worker_id(mine)
    assert "\n" not in str(caught.value)
    others = [{"worker_id": "two"}, {"kafka_topic_prefix": "p."}, {"kafka_bootstrap_servers": "elsewhere:9092"}]
    for change in others:
        other = claim_worker_id(mine.model_copy(update=change))
        assert other is not None
        other.close()
    assert claim_worker_id(mine.model_copy(update={"delivery": "at-least-once"})) is None, "nobody is fenced there"
    claim.close()
    again = claim_worker_id(mine)
    assert again is not None
    again.close()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_killed_worker_leaves_its_name_free(tmp_path: Path) -> None:
    script = (
        "from worker.settings import Settings; from worker.startup import claim_worker_id; import time;"
        f"claim = claim_worker_id(Settings(_env_file=None, worker_id='k', kafka_group_id='g-{os.getpid()}'));"
        "print('held', flush=True); time.sleep(60)"
    )
    mine = settings(worker_id="k", kafka_group_id=f"g-{os.getpid()}")
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(WorkerIdTaken):
            claim_worker_id(mine)
        child.kill()
    claim = claim_worker_id(mine)
    assert claim is not None
    claim.close()


FENCED = KafkaError(KafkaError._FENCED, "fenced")


def test_two_of_one_name_end_with_the_setting_that_is_wrong() -> None:
    watch = FenceWatch("one")
    for number in range(FENCED_TIMES - 1):
        watch.note(FENCED, float(number))
        watch.note(KafkaError(KafkaError._TRANSPORT), float(number))
    with pytest.raises(WorkerIdTaken, match="WORKER_ID one"):
        watch.note(FENCED, float(FENCED_TIMES))


def test_stalls_now_and_then_are_not_taken_for_a_second_worker() -> None:
    watch = FenceWatch("one")
    for number in range(100):
        watch.note(FENCED, number * FENCED_WITHIN_S / (FENCED_TIMES - 2))


def test_kafka_that_answers_is_not_waited_for() -> None:
    with EmbeddedBroker() as broker, capture_logs() as lines:
        startup.wait_for_kafka(settings(kafka_bootstrap_servers=broker.bootstrap_servers))
    assert lines == []


class Enough(Exception):
    """Ends a wait that has no end."""


def test_kafka_that_does_not_answer_is_told_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(startup, "TELL_AFTER_S", 0.0)
    told: list[dict[str, Any]] = []

    class Log:
        def warning(self, event: str, **fields: Any) -> None:
            told.append({"event": event, **fields})
            raise Enough

    monkeypatch.setattr(startup, "_log", Log())
    with pytest.raises(Enough):
        startup.wait_for_kafka(settings(kafka_bootstrap_servers=address))
    assert (told[0]["event"], told[0]["servers"]) == ("kafka_unreachable", address)
    assert "refused" in told[0]["reason"]


RUN = {"AWS_S3_BUCKET": "b", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


def test_run_with_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = call(["run"], tmp_path, HTTP_PORT=port, **RUN)
    assert done.returncode == 2
    assert done.stderr.decode() == f"error: HTTP_PORT: {port} on 127.0.0.1 is taken by another process; " + (
        "choose another, or 0 for any free one\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_run_with_a_worker_id_that_is_taken(tmp_path: Path) -> None:
    group = f"g-{os.getpid()}-run"
    claim = claim_worker_id(settings(worker_id="w", kafka_group_id=group))
    assert claim is not None
    done = call(["run"], tmp_path, HTTP_PORT="0", WORKER_ID="w", KAFKA_GROUP_ID=group, **RUN)
    claim.close()
    assert (done.returncode, done.stdout) == (2, b"")
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("error: another worker on this machine has WORKER_ID w")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_run_is_stopped_while_it_waits_for_kafka(tmp_path: Path, s3: Any, number: signal.Signals, code: int) -> None:
    restored = "import signal; signal.signal(2, signal.default_int_handler);"
    script = (
        f"{restored} from worker import startup; startup.TELL_AFTER_S = 0; from worker.__main__ import main; main()"
    )
    with subprocess.Popen(
        [WORKER[0], "-c", script, "run"],
        cwd=tmp_path,
        env=environment(HTTP_PORT="0", KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}", **s3.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stderr is not None
        lines: list[dict[str, Any]] = []
        while not lines or lines[-1]["event"] != "kafka_unreachable":
            lines.append(json.loads(child.stderr.readline()))
        child.send_signal(number)
        out, errors = child.communicate(timeout=30)
    assert child.returncode == code
    assert out == b""
    assert [json.loads(line)["event"] for line in errors.splitlines()] == ["signal"]
