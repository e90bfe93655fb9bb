"""The `doctor` verb: what it prints, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import sdxl
from worker.cli import doctor
from worker.doctor.checks import Check
from worker.doctor.finding import failed, ok


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but the test's, and two checks that need no server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_S3_BUCKET", "pictures")
    checks = (
        Check("settings", "worker.doctor.settings:check", 60.0),
        Check("disk", "tests.doctor.fakes:fine", 60.0, without_settings=True),
    )
    monkeypatch.setattr(doctor, "CHECKS", checks)


@pytest.mark.slow
def test_all_is_well() -> None:
    result = sdxl("doctor", "--json")
    *found, whole = [json.loads(line) for line in result.stdout.splitlines()]
    assert [finding["subject"] for finding in found] == ["settings", "fine"]
    assert whole == {"worst": "ok", "ok": 2, "skipped": 0, "warning": 0, "failed": 0}
    assert result.exit_code == 0


@pytest.mark.slow
def test_a_warning_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY", "at-least-once")
    assert sdxl("doctor", "--only", "settings").exit_code == 3


@pytest.mark.slow
def test_wrong_settings_leave_the_machine_to_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOTS", "many")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hushhush")
    result = sdxl("doctor")
    assert result.exit_code == 1
    assert "SLOTS: " in result.stdout
    assert "hushhush" not in result.output
    assert "None slots" in result.stdout, "the check that needs no settings got the default ones"


def test_a_check_that_does_not_exist() -> None:
    result = sdxl("doctor", "--only", "luck")
    assert result.exit_code == 2
    assert "the checks are settings, disk" in result.stderr


def test_lines_are_wrapped_in_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.plain for line in doctor._lines(failed("bucket", "no " * 40, "do " * 40))]
    assert max(map(len, lines)) <= 80
    assert all(line.startswith(" " * 27) for line in lines[1:])
    assert sum("→" in line for line in lines) == 1
    assert len(doctor._lines(ok("a", "b"))) == 1
