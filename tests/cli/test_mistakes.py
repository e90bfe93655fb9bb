"""What people do to a command line: each mistake is one line on standard error and an exit code."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from devtools.local.process import free_port
from tests.cli.conftest import Kafka, sdxl
from tests.cli.people import WORKER, assert_one_line, call, call_with, environment, shell
from tests.events.strategies import sample
from worker.cli import exits
from worker.client.errors import CommandError
from worker.errors import SettingsError, StoreUnavailable
from worker.events.types import GenerationCompleted

pytestmark = pytest.mark.slow

SUBMIT = ("submit", "--girl-id", "g", "--user-id", "1", "--prompt")


@pytest.mark.parametrize("verb", [("run",), ("status", "x"), ("topics", "describe"), ("replay", "--since", "1h")])
def test_a_dotenv_of_another_encoding(tmp_path: Path, verb: tuple[str, ...]) -> None:
    (tmp_path / ".env").write_bytes("SLOTS=3\n".encode("utf-16"))
    assert_one_line(call(verb, tmp_path), 2, ".env is UTF-16 text")


def test_run_without_a_bucket(tmp_path: Path) -> None:
    assert_one_line(call(["run"], tmp_path), 2, "AWS_S3_BUCKET is not set")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"KAFKA_NO_SUCH": "1"}, 'No such configuration property: "no.such"'),
        ({"KAFKA_SOCKET_TIMEOUT_MS": "soon"}, '"socket.timeout.ms"'),
        ({"KAFKA_SECURITY_PROTOCOL": "ssl", "KAFKA_SSL_CA_LOCATION": "/nowhere"}, "ssl.ca.location"),
        ({"KAFKA_COMPRESSION_TYPE": "best"}, '"compression.codec"'),
    ],
)
@pytest.mark.parametrize("verb", [("run",), ("cancel", "x"), ("topics", "describe")])
def test_librdkafkas_properties_are_told_by_name(
    tmp_path: Path, verb: tuple[str, ...], settings: dict[str, str], told: str
) -> None:
    assert_one_line(call(verb, tmp_path, AWS_S3_BUCKET="b", **settings), 2, told)


@pytest.mark.parametrize(
    "verb", [("status", "x"), ("cancel", "x"), (*SUBMIT, "x"), ("submit", "-"), ("watch",), ("topics", "create")]
)
def test_a_broker_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: tuple[str, ...]) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", address)
    monkeypatch.setattr("worker.client.reach.ANSWER_S", 300.0)  # a refusal is not waited out
    result = sdxl(*verb)
    assert result.exit_code == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error: Kafka at {address} does not answer: ")
    assert "refused" in line


def test_ctrl_c_is_heard_while_nobody_answers(tmp_path: Path) -> None:
    # An address that takes connections and never says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        restored = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {_RUN_WORKER}"
        with subprocess.Popen(
            [WORKER[0], "-c", restored, "status", "x"],
            cwd=tmp_path,
            env=environment(KAFKA_BOOTSTRAP_SERVERS=address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            silent.accept()[0].detach()  # it has begun to ask
            before = time.monotonic()
            child.send_signal(signal.SIGINT)
            out, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert (out, errors) == (b"", b"")
    assert time.monotonic() - before < 8, "the wait itself is 10 s"


_RUN_WORKER = "from worker.cli.entry import main; main()"


@pytest.mark.usefixtures("kafka")
def test_bad_lines_are_told_by_number_and_cost_no_other(kafka: Kafka) -> None:
    good = '{"girl_id": "g", "user_id": 1, "prompt": "x", "job_id": "%s"}'
    bad = [
        '{"girl_id": "g", "user_id": 1, "prompt": "\\ud800"}',
        '{"girl_id": "g", "user_id": 1, "prompt": "x", "guidance_scale": NaN}',
        '{"girl_id": "g", "user_id": 1, "prompt": "x", "guidance_scale": 1e999}',
        '{"girl_id": "g", "user_id": %s, "prompt": "x"}' % ("9" * 5_000),
        "[" * 100_000,
        "[]",
        "{",
        "\0",
    ]
    lines = ["\ufeff" + good % "first", *bad, good % "last"]
    stdin = b"\n".join([*(line.encode() for line in lines[:-1]), b'{"girl_id": "\xff"}', lines[-1].encode()])
    done = call_with(stdin, ["submit", "-"], Path.cwd(), KAFKA_BOOTSTRAP_SERVERS=kafka.broker.bootstrap_servers)
    assert done.returncode == 1
    assert set(done.stdout.split()) == {b"first", b"last"}
    told = done.stderr.decode().splitlines()
    assert [line.partition(":")[0] for line in told] == [f"line {number}" for number in range(2, 2 + len(bad) + 1)]
    assert all(len(line) < 300 for line in told)


@pytest.mark.parametrize("arguments", [("status", b"\xff"), (*SUBMIT, b"a \xff fox"), (b"\xfe",)])
def test_arguments_that_are_not_utf8(tmp_path: Path, arguments: tuple[str | bytes, ...]) -> None:
    assert_one_line(call(arguments, tmp_path), 2, f"argument {len(arguments)} is not UTF-8")


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "xx_YY", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "1"},
        {"COLUMNS": "wide", "LINES": "0"},
        {"HOME": None},
        {"TERM": "nonsense"},
    ],
)
def test_a_terminal_that_can_do_little(tmp_path: Path, locale: dict[str, str | None]) -> None:
    (tmp_path / "default.toml").write_text('prompt = "a fox"\n')
    words = "café – \N{FOX FACE}"
    done = call(["profiles", "preview", "g", "--prompt", words.encode(), "--dir", "."], tmp_path, **locale)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"a fox, caf" in done.stdout
    assert call(["--help"], tmp_path, **locale).returncode == 0


@pytest.mark.parametrize(
    ("line", "code", "errors"),
    [
        # The reader is gone before the first write; the help would fit into the pipe.
        ("mkfifo go; { read <go; W --help; } | { exec <&-; echo >go; }; exit ${PIPESTATUS[0]}", 141, b""),
        ("W profiles check . | true; exit ${PIPESTATUS[0]}", 141, b""),
        ("W --version > /dev/full", 1, b"error: input or output failed: No space left on device\n"),
        ("W --version >&-", 0, b""),
        ("W status 2>&-", 2, b""),
        ("W sumbit 2>/dev/full", 2, b""),
        ("W profiles check . <&- >&- 2>&-", 0, b""),
    ],
)
def test_streams_that_are_closed(tmp_path: Path, line: str, code: int, errors: bytes) -> None:
    for number in range(2_000):  # more than a pipe holds
        (tmp_path / f"profile-{number}.toml").write_text('prompt = "a fox"\n')
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (code, errors)


def test_a_socket_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    script = (
        "import os, socket; from worker.cli.entry import _open_closed_streams; _open_closed_streams();"
        "fd = socket.socket().fileno(); os._exit(0 if fd > 2 else 1)"
    )
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "{script}" <&- >&- 2>&-', WORKER[0]], cwd=tmp_path, env=environment(), timeout=60
    )
    assert done.returncode == 0


@pytest.mark.usefixtures("kafka")
def test_watch_ends_quietly_when_its_reader_does(kafka: Kafka, tmp_path: Path) -> None:
    kafka.publish(*(sample(GenerationCompleted, job_id=f"job-{number}") for number in range(50)))
    line = "W watch --since beginning | head -1; exit ${PIPESTATUS[0]}"
    done = shell(line, tmp_path, KAFKA_BOOTSTRAP_SERVERS=kafka.broker.bootstrap_servers)
    assert (done.returncode, done.stderr) == (141, b"")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.usefixtures("kafka")
def test_watch_ends_with_its_reader_and_not_with_the_next_event(kafka: Kafka, tmp_path: Path) -> None:
    kafka.publish(sample(GenerationCompleted, job_id="the only one"))
    line = "W watch --since beginning | head -1; exit ${PIPESTATUS[0]}"
    done = shell(line, tmp_path, KAFKA_BOOTSTRAP_SERVERS=kafka.broker.bootstrap_servers)
    assert (done.returncode, done.stderr) == (141, b"")
    assert b"the only one" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("profiles", "check", "nowhere"), "nowhere is not a readable folder"),
        (("profiles", "check", "file"), "Not a directory"),
        (("models", "train-lora", "--dataset-name", "nowhere", "--output-dir", "out"), "nowhere is not a folder"),
        (("models", "train-lora", "--dataset-name", ".", "--output-dir", "file/out"), "file/out: Not a directory"),
        (("sumbit",), "No such command 'sumbit'. Did you mean 'submit'?"),
        (("submit", "--stepz", "3"), "No such option"),
        (("submit", "--prompt"), "requires an argument"),
        (("watch", "--count", "0"), "--count"),
        (("submit", "file.jsonl"), "only - (standard input) is"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    (tmp_path / "file").write_text("x")
    assert_one_line(call(arguments, tmp_path), 2, told)


def test_the_state_of_a_replay_that_cannot_be_written(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("x")
    monkeypatch.setattr("worker.cli.replay.run._store", lambda _connection: None)
    result = sdxl("replay", "--verify", "--since", "1h", "--state", "file/state.jsonl")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "error: file: File exists"
    assert kafka.records(kafka.topics.completed) == []


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (SettingsError("SLOTS: many"), "SLOTS: many", 2),
        (CommandError("no"), "no", 1),
        (StoreUnavailable("S3 does not answer"), "S3 does not answer", 1),
        (KafkaException(KafkaError(KafkaError._INVALID_ARG, "no such")), "Kafka settings: no such", 2),
        (KafkaException(KafkaError(KafkaError._TRANSPORT, "gone")), "Kafka: gone", 1),
        (PermissionError(13, "Permission denied", "out/x"), "out/x: Permission denied", 2),
        (OSError(28, "No space left on device", "out/x"), "out/x: No space left on device", 1),
        (OSError("no CA bundle"), "input or output failed: no CA bundle", 1),
        (ConnectionResetError(104, "Connection reset by peer"), "input or output failed: Connection reset by peer", 1),
    ],
)
def test_each_family_of_errors_has_its_line_and_code(error: Exception, line: str, code: int) -> None:
    assert exits.explain(error) == (line, code)


def test_what_nobody_expected_is_one_bounded_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOG_LEVEL", raising=False)

    def fail() -> None:
        raise KeyError("line one\nline two " + "x" * 50_000)

    assert exits.exit_code(fail) == 1
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith("error: unexpected KeyError: ")
    assert len(line) <= exits.LINE_CHARS + 20
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert exits.exit_code(fail) == 1
    assert "test_mistakes.py" in capsys.readouterr().err


def test_ctrl_c_and_abort_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert exits.exit_code(interrupt) == 130
    assert capsys.readouterr() == ("", "")


_INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
from worker.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "confluent_kafka", "worker.cli.status", "pydantic_settings", "fastavro"])
def test_ctrl_c_during_the_imports(tmp_path: Path, module: str) -> None:
    done = subprocess.run(
        [WORKER[0], "-c", _INTERRUPTED, "status", module],
        cwd=tmp_path,
        env=environment(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
