"""Forked workers are processes of their own, as if Python had been started anew."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, cast

import pytest

from devtools.local.process import ProcessError
from tests import forking
from tests.forking import ForkedProcess

MODULE = "tests.chaos.worker_main"

pytestmark = pytest.mark.server


def ended(process: ForkedProcess) -> int:
    deadline = time.monotonic() + 30
    while (code := process.exit_code) is None:
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.02)
    return code


def test_its_environment_log_and_exit_code_are_its_own(tmp_path: Path) -> None:
    settings = {"CHAOS_TRACE": str(tmp_path / "trace"), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    wrong = [
        ForkedProcess(name, [MODULE], tmp_path / name, {**settings, name: "-1"}) for name in ("SLOTS", "HTTP_PORT")
    ]
    for process in wrong:
        process.start()
    assert [ended(process) for process in wrong] == [2, 2]
    assert [name for name in ("SLOTS", "HTTP_PORT") if name not in (tmp_path / name).read_text()] == []
    assert "HTTP_PORT" not in (tmp_path / "SLOTS").read_text()


def test_its_log_is_there_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NeverForks:
        def fork(self, *order: Any) -> None:
            raise OSError(f"its log is {'there' if order[-1].exists() else 'missing'}")

    monkeypatch.setitem(forking._PARENTS, MODULE, cast(Any, NeverForks()))
    with pytest.raises(ProcessError, match="its log is there"):
        ForkedProcess("one", [MODULE], tmp_path / "log", {}).start()


def test_signals_reach_it_and_it_can_be_started_again(tmp_path: Path) -> None:
    fifo = tmp_path / "trace"
    os.mkfifo(fifo)
    # It waits for somebody who reads its trace.
    process = ForkedProcess("waiting", [MODULE], tmp_path / "log", {"CHAOS_TRACE": str(fifo)})
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.start()
        assert process.running
        process.suspend()
        process.signal(number)
        process.resume()
        assert ended(process) == -number
    process.start()
    process.stop()
    assert not process.running
