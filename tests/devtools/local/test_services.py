"""`python -m devtools.local.services`, as a developer runs it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from devtools.local.process import free_ports
from devtools.local.services import main
from worker.topic_admin import describe_topics
from worker.topics import Topics


@contextlib.contextmanager
def running_services(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as services:
        try:
            yield services
        finally:  # a failed test must not leave it running
            services.terminate()


@pytest.mark.usefixtures("java")
def test_services_print_what_a_worker_needs_and_stop_on_sigterm(tmp_path: Path) -> None:
    kafka_port, s3_port = free_ports(2)
    command = [
        sys.executable,
        "-m",
        "devtools.local.services",
        "--directory",
        str(tmp_path),
        "--partitions",
        "2",
    ]
    command += ["--kafka-port", str(kafka_port), "--s3-port", str(s3_port)]
    with running_services(command) as services:
        assert services.stdout is not None
        lines = [services.stdout.readline() for _ in range(6)]
        assert (tmp_path / "env").read_text() == "".join(lines)
        exported = dict(shlex.split(line)[1].split("=", 1) for line in lines)
        topics = describe_topics(exported["KAFKA_BOOTSTRAP_SERVERS"], Topics())
        store = boto3.client(
            "s3",
            endpoint_url=exported["AWS_ENDPOINT_URL_S3"],
            region_name=exported["AWS_REGION"],
            aws_access_key_id=exported["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=exported["AWS_SECRET_ACCESS_KEY"],
        )
        store.head_bucket(Bucket=exported["AWS_S3_BUCKET"])
        children = Path(f"/proc/{services.pid}/task").glob("*/children")
        pids = [int(pid) for listed in children for pid in listed.read_text().split()]
        os.kill(services.pid, signal.SIGTERM)
        assert services.wait(30) == 0
    assert [topic.partition_count for topic in topics[:3]] == [2, 2, 2]
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_port_in_use_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--directory", str(tmp_path), "--kafka-port", str(port), "--s3-port", str(port)]) == 1
    assert f"port {port} is in use" in capsys.readouterr().err
