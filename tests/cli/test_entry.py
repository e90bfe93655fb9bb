"""The command line as a whole: help, version, exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.local.process import free_port
from tests.cli.conftest import sdxl
from worker import __version__
from worker.cli import Verbs

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | env
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_help_lists_every_verb_and_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from worker.cli import app\n"
        "try: app(['--help'], prog_name='sdxl-worker')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'boto3', 'pydantic_settings', 'fastavro'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in Verbs.verbs)
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("verb", sorted(Verbs.verbs))
def test_every_verb_has_help_without_importing_torch(verb: str) -> None:
    result = sdxl(verb, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.stdout


@pytest.mark.parametrize("verb", [*Verbs.verbs, *Verbs.developer_verbs])
def test_help_is_not_cut_at_80_columns(verb: str) -> None:
    """Rich cuts what does not fit into its tables with an ellipsis; every sub-verb is looked at too."""
    listed = sdxl(verb, "--help", columns=80).stdout
    _, _, commands = listed.partition("Commands")
    subverbs = re.findall(r"^│ ([a-z][a-z-]*) ", commands, re.MULTILINE)
    for name in subverbs:
        listed += sdxl(verb, name, "--help", columns=80).stdout
    assert max(map(len, listed.splitlines())) == 80
    assert not re.search(r"\w…", listed)
    assert bool(subverbs) == (verb in ("topics", "models", "profiles", "bench", "dead-letters"))


def test_train_lora_takes_the_option_names_of_diffusers_scripts(tmp_path: Path) -> None:
    result = sdxl("models", "train-lora", "--dataset_name", str(tmp_path / "none"), "--output-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "none is not a folder" in result.stderr


def test_version() -> None:
    assert sdxl("--version").stdout == f"sdxl-worker {__version__}\n"


def test_an_unknown_verb_is_a_usage_error() -> None:
    result = sdxl("sumbit")
    assert result.exit_code == 2
    assert "submit" in result.stderr


def test_wrong_settings_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run("status", "job-1", cwd=tmp_path, SLOTS="none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: SLOTS: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_cluster_that_is_not_there_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr("worker.client.reach.REFUSED_S", 0.1)
    result = sdxl("watch")
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert "Traceback" not in result.output


@pytest.fixture
def listening_to_ctrl_c() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT, and so would our child."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("kafka", "listening_to_ctrl_c")
def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "worker", "watch", "--since", "beginning", "--status"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        time.sleep(2.5)  # until it polls; a watch of empty topics prints nothing that could be waited for
        child.send_signal(signal.SIGINT)
        out, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert (out, errors) == ("", "")
