"""Signals: what the first and the second do, and that the handler takes no lock."""

from __future__ import annotations

import os
import pty
import signal
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from worker import signals
from worker.signals import Signals, StoppedEarly


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers as they were, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_signal_handler_takes_no_lock() -> None:
    found = Signals()
    with capture_logs() as lines:
        signal.raise_signal(signal.SIGTERM)
    assert (found.count, found.number) == (1, signal.SIGTERM)
    assert lines == [], "it may have come in the middle of a log line, whose lock its own would wait for"


def test_a_second_signal_has_its_default_effect() -> None:
    found = Signals()
    signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = os.fork()
    if before == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    assert os.waitpid(before, 0)[1] == signal.SIGTERM
    assert found.count == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_during_the_start_ends_it(number: int, code: int) -> None:
    Signals().starting = True
    with pytest.raises(StoppedEarly) as caught:
        signal.raise_signal(number)
    assert caught.value.exit_code == code


def test_the_first_ctrl_c_tells_a_terminal_what_happens_now(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr(signals, "STDERR", theirs)
    Signals(drain_s=45)
    signal.raise_signal(signal.SIGINT)
    told = os.read(ours, 1_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "for 45 s at most" in told
    assert "Ctrl-C again" in told


def test_no_text_gets_between_the_lines_of_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    Signals(drain_s=45)
    signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == ""
