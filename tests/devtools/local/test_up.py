"""`make up`, as far as it can be tried without starting all of it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from devtools.local.process import free_ports
from devtools.local.services import write_environment
from devtools.local.up import _parser, main, settings
from worker.settings import Settings

SERVICES = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "AWS_S3_BUCKET": "b"}


def test_worker_and_gateway_are_told_what_they_know() -> None:
    values = settings(SERVICES, _parser().parse_args([]))
    unknown = {name for name in values if name.lower() not in Settings.model_fields}
    assert unknown == {"OMP_NUM_THREADS"}
    assert values["GATEWAY_PORT"] == "8007", "the guide's lines ask this port"
    assert values["HTTP_PORT"] != values["GATEWAY_PORT"]
    assert Path(values["SDXL_MODEL_ID"]).is_dir()


def test_the_file_to_source_is_for_this_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "env"
    lines = write_environment({"A": "it's", "B": "x y"}, file)
    assert file.read_text() == lines == "export A='it'\"'\"'s'\nexport B='x y'\n"
    assert file.stat().st_mode & 0o077 == 0


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ports = free_ports(3)
    names = ("--kafka-port", "--s3-port", "--worker-port")
    given = [text for pair in zip(names, map(str, ports), strict=True) for text in pair]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = main([*given, "--gateway-port", str(port), "--directory", str(tmp_path)])
    assert code == 1
    assert capsys.readouterr().err == f"port {port} is in use: is another `make up` or `make services` running?\n"
