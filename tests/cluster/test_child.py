"""The cluster is asked by a process of its own, whose end is an answer too."""

from __future__ import annotations

import subprocess

import pytest

from worker.cluster.child import ask_apart
from worker.cluster.facts import ClusterUnavailable


def test_the_reason_for_no_answer_comes_back() -> None:
    with pytest.raises(ClusterUnavailable, match="refused"):
        ask_apart({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, ["t"], "g", 2.0)


def test_a_child_that_aborts_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def aborted(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, -6, b"", b"Assertion failed")

    monkeypatch.setattr(subprocess, "run", aborted)
    with pytest.raises(ClusterUnavailable, match="exit code -6"):
        ask_apart({"bootstrap.servers": "127.0.0.1:1"}, ["t"], "g", 2.0)
