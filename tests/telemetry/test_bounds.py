"""What can stand in a log line: no prompt, no variable, and never more than the bound."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException
from pydantic import SecretStr, TypeAdapter, ValidationError

from worker.errors import StoreUnavailable
from worker.telemetry import bounds, logs

PROMPT = "a lighthouse at dusk, nobody must read this"


class Lane(StrEnum):
    URGENT = "urgent"


@dataclass
class Request:
    prompt: str = PROMPT


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError(PROMPT)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged, as the process would write it; pytest puts its own streams in the place of sys's."""
    stream, before, hook = io.StringIO(), structlog.get_config(), threading.excepthook
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
    yield stream
    structlog.configure(**before)
    threading.excepthook = hook


def log() -> Any:
    return structlog.get_logger().bind()


def fail_with(error: Exception) -> None:
    prompt = PROMPT  # what a traceback with locals would show
    try:
        raise error
    finally:
        del prompt


def pydantic_error() -> Exception:
    try:
        TypeAdapter(int).validate_python(PROMPT)
    except ValidationError as error:
        return error
    raise AssertionError


ERRORS = [
    ValueError(f"cannot encode {PROMPT!r}"),
    KeyError(PROMPT),
    TypeError(PROMPT),
    UnicodeEncodeError("ascii", PROMPT, 0, 1, PROMPT),
    Exception(PROMPT),
    AssertionError(PROMPT),
    Unprintable(),
    pydantic_error(),
]


@pytest.mark.parametrize("fmt", ["json", "console"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_exception_never_brings_a_prompt(written: io.StringIO, error: Exception, fmt: str) -> None:
    logs.configure("debug", fmt)
    try:
        fail_with(error)
    except Exception:
        log().error("failed", exc_info=True, error=error)
    line = written.getvalue()
    assert "lighthouse" not in line
    assert type(error).__name__ in line
    assert "test_bounds.py" in line
    assert "fail_with" in line


def test_a_cause_does_not_either(written: io.StringIO) -> None:
    logs.configure("info", "json")
    try:
        try:
            fail_with(ValueError(PROMPT))
        except ValueError as error:
            raise StoreUnavailable("S3 does not answer") from error
    except StoreUnavailable as error:
        log().error("failed", exc_info=error)
    line = json.loads(written.getvalue())
    assert [part["type"] for part in line["exception"]] == ["StoreUnavailable", "ValueError"]
    assert line["exception"][0]["message"] == "S3 does not answer"
    assert "lighthouse" not in written.getvalue()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StoreUnavailable("S3 does not answer"), "StoreUnavailable: S3 does not answer"),
        (RuntimeError("CUDA error: device-side assert"), "RuntimeError: CUDA error: device-side assert"),
        (KafkaException(KafkaError(KafkaError._FENCED, "fenced")), "KafkaException: fenced"),
        (FileNotFoundError(2, "No such file", "x"), "FileNotFoundError: [Errno 2] No such file: 'x'"),
        (ValueError("abc"), "ValueError: (3 characters that may quote a request)"),
        (ValueError(), "ValueError"),
    ],
)
def test_what_quotes_no_data_keeps_its_text(error: Exception, text: str) -> None:
    assert bounds.describe(error) == text


@pytest.mark.parametrize(
    "value",
    [Request(), SecretStr(PROMPT), {"request": Request()}, [Request()], object(), PROMPT.encode(), Request],
    ids=lambda value: type(value).__name__,
)
def test_an_object_is_named_by_its_type(value: object) -> None:
    assert "lighthouse" not in json.dumps(bounds.bounded(value))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, 3),
        (True, True),
        (None, None),
        (Lane.URGENT, "urgent"),
        (Path("a/b"), "a/b"),
        (KafkaError(KafkaError._TRANSPORT, "gone"), "gone"),
        (2**64, "<int of 65 bits>"),
        pytest.param(10**10_000, "<int of 33220 bits>", id="huge"),
        ((1, "x"), [1, "x"]),
        ({1: {2: {3: {4: {5: 6}}}}}, {"1": {"2": {"3": {"4": "<dict>"}}}}),
    ],
)
def test_values_as_json_holds_them(value: object, shown: object) -> None:
    assert bounds.bounded(value) == shown


@pytest.mark.parametrize("fmt", ["json", "console"])
@pytest.mark.parametrize(
    "values",
    [
        {"text": "x" * 1_000_000},
        {"items": ["x" * 10_000] * 10_000},
        {"nested": {str(n): {str(m): "x" * 10_000 for m in range(100)} for n in range(100)}},
        {f"field_{n}": "x" * 10_000 for n in range(1_000)},
        {"error": StoreUnavailable("x" * 1_000_000)},
        {"number": 10**100_000},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_line_has_a_bound(written: io.StringIO, values: dict[str, Any], fmt: str) -> None:
    logs.configure("info", fmt)
    log().info("event", **values)
    assert 0 < len(written.getvalue()) <= logs.LINE_CHARS + 1_000
    if fmt == "json":
        json.loads(written.getvalue())


def test_a_deep_stack_has_a_bound(written: io.StringIO) -> None:
    def dive(depth: int) -> None:
        if depth == 0:
            raise RuntimeError("deep")
        dive(depth - 1)

    logs.configure("info", "json")
    try:
        dive(300)
    except RuntimeError:
        log().error("failed", exc_info=True)
    [cause] = json.loads(written.getvalue())["exception"]
    assert len(cause["frames"]) == bounds.FRAMES
    assert cause["frames_left_out"] == 301 + 1 - bounds.FRAMES
    assert cause["frames"][-1].endswith(" dive")


def test_a_thread_that_dies_is_a_line(written: io.StringIO) -> None:
    logs.configure("info", "json")
    thread = threading.Thread(target=fail_with, args=(ValueError(PROMPT),), name="offsets")
    thread.start()
    thread.join()
    line = json.loads(written.getvalue())
    assert (line["event"], line["thread"]) == ("thread_died", "offsets")
    assert "lighthouse" not in written.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "fmt", "is_json"),
    [(Terminal(), "auto", False), (io.StringIO(), "auto", True), (Terminal(), "json", True)],
)
def test_people_get_readable_lines_and_machines_json(
    monkeypatch: pytest.MonkeyPatch, written: io.StringIO, stream: io.StringIO, fmt: str, is_json: bool
) -> None:
    assert written is not stream
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
    logs.configure("info", fmt)
    log().info("hello", slots=4)
    assert stream.getvalue().startswith("{") is is_json
    assert "hello" in stream.getvalue()


def test_a_strangers_text_does_not_steer_the_terminal(written: io.StringIO) -> None:
    logs.configure("info", "console")
    log().info("hello", job_id="a\x1b[2J\rb", other="\x9b31m")
    assert not {"\x1b", "\r", "\x9b"} & set(written.getvalue())
    assert "x1b[2J" in written.getvalue()


class Broken(io.StringIO):
    def write(self, text: str) -> int:  # noqa: ARG002
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Broken(), None])
def test_a_log_that_cannot_be_written_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, written: io.StringIO, stream: io.StringIO | None
) -> None:
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
    logs.configure("info", "auto")
    log().info("hello")
    assert written.getvalue() == ""
