"""Files and commands of docs/many-gpus.md."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tests.deploy.tools import ROOT, load, program, run
from worker import poll_waits, runtime
from worker.cli import app
from worker.settings import Settings

PAGE = (ROOT / "docs/many-gpus.md").read_text()
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
OVERRIDE = ROOT / "docker-compose.many-gpus.yml"


def arguments_of_run(words: list[str]) -> dict[str, Any]:
    """What the command line makes of `run …`; an error for what it does not know."""
    context = get_command(app).make_context("sdxl-worker", list(words), resilient_parsing=False)
    name, verb, rest = context.command.resolve_command(context, list(words))  # type: ignore[attr-defined]
    found: dict[str, Any] = verb.make_context(name, rest, parent=context).params
    return found


def unit(path: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser["Service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
class TestUnits:
    def test_it_runs_what_the_command_line_knows(self, path: Path) -> None:
        _, *words = shlex.split(unit(path)["ExecStart"].replace("%i", "0"))
        assert arguments_of_run(words)["gpus"] in ("all", "0")

    def test_one_signal_reaches_the_supervisor_only(self, path: Path) -> None:
        assert unit(path)["KillMode"] == "mixed"

    def test_the_drain_fits_and_wrong_settings_are_not_tried_again(self, path: Path) -> None:
        settings = Settings(_env_file=None)
        worst = settings.drain_timeout_s + settings.revoke_timeout_s + 4 * poll_waits.LAST_COMMIT_S + runtime.JOIN_S
        assert int(unit(path)["TimeoutStopSec"]) > worst
        assert unit(path)["RestartPreventExitStatus"] == "2"
        assert unit(path)["Restart"] == "on-failure"

    def test_the_page_names_it(self, path: Path) -> None:
        assert path.name in PAGE


def test_every_command_of_the_page_is_one() -> None:
    runs = re.findall(r"^\$ sdxl-worker (run .+)$", PAGE, re.MULTILINE)
    assert len(runs) >= 3
    for line in runs:
        assert arguments_of_run(shlex.split(line))["gpus"]
    joined = PAGE.replace("\\\n", " ")
    [container] = re.findall(r"^\$ docker run (.+)$", joined, re.MULTILINE)
    words = shlex.split(container)
    assert arguments_of_run(words[words.index("sdxl-worker", 3) + 1 :])["gpus"] == "all"
    assert int(words[words.index("--stop-timeout") + 1]) >= 120
    for path in re.findall(r"deploy/systemd/\S+\.service", PAGE):
        assert (ROOT / path).exists()


def test_the_override_gives_all_cards_to_one_container_that_uses_them() -> None:
    run(program("check-jsonschema", "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", OVERRIDE)
    base, over = load(ROOT / "docker-compose.yml")["services"]["worker-gpu"], load(OVERRIDE)["services"]["worker-gpu"]
    assert arguments_of_run(over["command"])["gpus"] == "all"
    [device] = over["deploy"]["resources"]["reservations"]["devices"]
    assert device["count"] == "all"
    # Compose merges the two; any other device would be refused.
    assert (base["environment"] | over["environment"])["DEVICE"] in ("auto", "cuda")
    assert "--scale" in OVERRIDE.read_text()
    assert yaml.safe_load(OVERRIDE.read_text()).keys() == {"services"}
