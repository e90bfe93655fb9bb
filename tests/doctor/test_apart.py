"""Checks in processes of their own: what hangs, crashes or raises costs one line each."""

from __future__ import annotations

import pytest

from worker.doctor.apart import AT_ONCE, Examination
from worker.doctor.checks import CHECKS, Check
from worker.doctor.finding import Finding, Level, failed, ok, skipped, warning, worst
from worker.doctor.secrets import hide, secrets_of
from worker.settings import Settings

SETTINGS = Settings(
    _env_file=None,
    slots=3,
    aws_access_key_id="AKIAVISIBLE",
    aws_secret_access_key="do-not-print-me",
    kafka_properties={"sasl.password": "hushhush", "sasl.username": "worker"},
)


def fake(name: str, timeout_s: float = 60.0) -> Check:
    return Check(name, f"tests.doctor.fakes:{name}", timeout_s)


def examine(*checks: Check) -> dict[str, list[Finding]]:
    with Examination(checks, SETTINGS) as examination:
        return {check.name: found for check, found, _ in examination.results()}


@pytest.mark.slow
def test_what_hangs_or_crashes_or_raises_stops_no_other_check() -> None:
    # As many that hang as may run at once: the ones after them have to wait for their end.
    hanging = [Check(f"hangs {n}", "tests.doctor.fakes:hangs", 4.0) for n in range(AT_ONCE)]
    found = examine(*hanging, fake("aborts"), fake("raises"), fake("silent"), fake("fine"))
    for check in hanging:
        assert found[check.name][-1].level is Level.FAILED
        assert "no answer within 4 s" in found[check.name][-1].text
    so_far, crashed = found["aborts"]
    assert so_far.text == "so far"
    assert crashed.level is Level.FAILED
    assert "signal 6" in crashed.text
    _, raised = found["raises"]
    assert raised.level is Level.FAILED
    assert "RuntimeError: cannot sign with (hidden)" in raised.text
    assert [finding.level for finding in found["silent"]] == [Level.FAILED]
    assert found["fine"] == [ok("fine", "3 slots")]


def test_no_secret_is_left_in_a_line() -> None:
    secrets = secrets_of(SETTINGS)
    assert hide("worker, hushhush, do-not-print-me, AKIAVISIBLE", secrets) == "worker, (hidden), (hidden), (hidden)"


def test_the_worst_level_counts() -> None:
    found = [ok("a", ""), skipped("b", ""), warning("c", "", ""), failed("d", "", "")]
    assert [worst(found[:n]) for n in range(5)] == [Level.OK, *Level]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_can_be_imported(check: Check) -> None:
    assert callable(check.function())
