"""The docs page and the command say the same."""

from __future__ import annotations

import json

import pytest

from devtools.memory_table import PAGE, with_table
from tests.cli.conftest import sdxl


@pytest.fixture(autouse=True)
def defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Default settings, and models that are not on this machine."""
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("AWS_S3_BUCKET", "pictures")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("worker.memory_plan.asked.read_weights", lambda _id, *, assumed, **_half: assumed)


def test_the_table_of_the_page_is_what_the_command_prints() -> None:
    page = PAGE.read_text()
    assert with_table(page) == page, "run python -m devtools.memory_table"
    printed = sdxl("memory", "--all", "--markdown").stdout
    assert printed in page
    assert len(printed.splitlines()) > 40


def test_a_card_that_is_too_small() -> None:
    told = sdxl("memory", "--card", "RTX 4060 8GB")
    assert told.exit_code == 1
    assert told.stdout.splitlines()[-1].endswith("These would fit: REFINER_OFFLOAD=true.")


def test_one_that_is_large_enough_for_programs() -> None:
    told = sdxl("memory", "--memory", "24GiB", "--json")
    assert told.exit_code == 0
    plan = json.loads(told.stdout)
    assert (plan["fits"], plan["tight"], plan["vae_tile_px"], plan["dtype"]) == (True, False, None, "bfloat16")


@pytest.mark.parametrize(
    "arguments", [("--card", "GTX 1080"), ("--memory", "much"), ("--card", "T4", "--all"), ("--card", "RTX 9999")]
)
def test_mistakes_are_one_line(arguments: tuple[str, ...]) -> None:
    told = sdxl("memory", *arguments)
    assert told.exit_code == 2
    assert "Traceback" not in told.output
