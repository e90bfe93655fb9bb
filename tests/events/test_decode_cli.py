"""`decode`: convert kcat's length-prefixed output to JSON lines."""

from __future__ import annotations

import base64
import io
import json
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.events.strategies import sample
from tests.registry import RegistryServer
from worker.cli.decode import decode, decode_stream
from worker.events.codec import EventCodec
from worker.events.confluent import ConfluentCodec
from worker.events.registry import Registry
from worker.events.single_object import SingleObjectCodec
from worker.events.types import (
    EVENT_TYPES,
    GenerationCompleted,
    GenerationRequest,
    GenerationStatus,
    Lora,
)

CODEC = SingleObjectCodec()


def kcat(*values: bytes | None) -> bytes:
    """What `kcat -f '%R%s'` prints."""
    return b"".join(struct.pack(">i", -1 if v is None else len(v)) + (v or b"") for v in values)


def encoded(event: Any, codec: EventCodec = CODEC) -> bytes:
    return codec.encode(event, topic="t")[0]


def run(stream: bytes, codec: EventCodec = CODEC) -> tuple[int, list[Any], list[str]]:
    out, errors = io.StringIO(), io.StringIO()
    code = decode_stream(io.BytesIO(stream), out, errors, codec)
    return code, [json.loads(line) for line in out.getvalue().splitlines()], errors.getvalue().splitlines()


def test_every_event_type_is_one_line() -> None:
    code, lines, errors = run(kcat(*(encoded(sample(cls)) for cls in EVENT_TYPES)))
    assert (code, errors) == (0, [])
    assert [line["type"] for line in lines] == [cls.__name__ for cls in EVENT_TYPES]


def test_both_framings_are_read() -> None:
    with (
        RegistryServer() as server,
        closing(ConfluentCodec(Registry(server.url))) as writer,
        closing(ConfluentCodec(Registry(server.url))) as reader,
    ):
        values = [encoded(sample(GenerationRequest), codec) for codec in (writer, CODEC)]
        code, lines, errors = run(kcat(*values), reader)
    assert (code, errors) == (0, [])
    assert lines[0] == lines[1]


def test_fields_are_plain_json() -> None:
    event = sample(
        GenerationCompleted,
        loras=(Lora(name="ink", weight=0.5),),
        lora_fingerprints={"ink": "abc"},
        prompt="line\nbreak \x1b[31m",
        nsfw_score=float("nan"),
    )
    _, [line], _ = run(kcat(encoded(event)))
    assert line["loras"] == [{"name": "ink", "weight": 0.5}]
    assert line["lora_fingerprints"] == {"ink": "abc"}
    assert line["completed_at"] == "2026-03-01T12:00:00.250+00:00"
    assert line["output_format"] == "unknown"
    assert line["prompt"] == "line\nbreak \x1b[31m"
    assert line["nsfw_score"] is None


def test_a_null_value_is_null() -> None:
    assert run(kcat(None, encoded(sample(GenerationStatus))))[1][0] is None


def test_a_bad_record_is_reported_and_the_others_are_printed() -> None:
    good = encoded(sample(GenerationStatus))
    code, lines, errors = run(kcat(good, b"nonsense", b"", good[:-1], good))
    assert code == 1
    assert [line["type"] for line in lines] == ["GenerationStatus", None, None, None, "GenerationStatus"]
    assert [line["framing"] for line in lines[1:4]] == ["text", "empty", "single-object"]
    assert lines[3]["fields"]["job_id"] == lines[0]["job_id"]
    assert base64.b64decode(lines[1]["value_base64"]) == b"nonsense"
    assert [error.split(":")[0] for error in errors] == ["record 1", "record 2", "record 3"]


def test_no_input_is_no_error() -> None:
    assert run(b"") == (0, [], [])


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"\x00\x00", "within a length"),
        (b"\x00\x00\x00\x09abc", "6 bytes before"),
        (b"\xff\xff\xff\xfe", "-2 bytes"),
        (b"text, not a length", "kcat -f"),
    ],
)
def test_a_stream_out_of_step_stops_with_an_error(tail: bytes, reason: str) -> None:
    code, lines, [error] = run(kcat(encoded(sample(GenerationStatus))) + tail)
    assert code == 1
    assert len(lines) == 1
    assert reason in error


def test_a_registry_that_is_down_stops_with_an_error() -> None:
    with RegistryServer() as server:
        url = server.url
    with closing(ConfluentCodec(Registry(url))) as codec:
        code, lines, [error] = run(kcat(b"\x00\x00\x00\x00\x01abc"), codec)
    assert (code, lines) == (1, [])
    assert "no answer from the schema registry" in error


def test_the_command_reads_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCHEMA_REGISTRY_URL", raising=False)
    app = typer.Typer()
    app.command()(decode)
    stream = kcat(encoded(sample(GenerationRequest, job_id="job-1")), b"nonsense")
    result = CliRunner().invoke(app, [], input=stream)
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[0])["job_id"] == "job-1"
    assert "record 1: starts with 6e 6f" in result.stderr
