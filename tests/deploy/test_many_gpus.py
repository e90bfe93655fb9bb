"""Files and commands of docs/many-gpus.md."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
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
FOLDER = ROOT / "deploy/systemd"
UNITS = [FOLDER / "sdxl-worker.service", FOLDER / "sdxl-worker@.service"]
PULL = FOLDER / "sdxl-worker-pull.service"
OVERRIDE = ROOT / "docker-compose.many-gpus.yml"


def arguments_of_run(words: list[str]) -> dict[str, Any]:
    """What the command line makes of `run …`; an error for what it does not know."""
    context = get_command(app).make_context("sdxl-worker", list(words), resilient_parsing=False)
    name, verb, rest = context.command.resolve_command(context, list(words))  # type: ignore[attr-defined]
    found: dict[str, Any] = verb.make_context(name, rest, parent=context).params
    return found


def unit(path: Path, section: str = "Service") -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser[section]


def environment(path: Path) -> dict[str, str]:
    lines = re.findall(r"^Environment=(.+)$", path.read_text(), re.MULTILINE)
    return dict(word.split("=", 1) for line in lines for word in shlex.split(line))


def root_commands() -> list[str]:
    """The page's commands for root."""
    blocks = re.findall(r"^```console\n(# .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("# ") for block in blocks for line in block.splitlines()]


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

    def test_the_weights_are_pulled_before_and_to_where_it_looks(self, path: Path) -> None:
        order = unit(path, "Unit")
        assert order["Requires"] == PULL.name
        assert PULL.name in order["After"].split()
        pull, run = environment(PULL), environment(path)
        assert run.items() >= pull.items()
        assert run["HF_HUB_OFFLINE"] == "1"
        assert "HF_HUB_OFFLINE" not in pull
        for key in ("User", "EnvironmentFile", "StateDirectory"):
            assert unit(PULL)[key] == unit(path)[key]
        assert Path(run["HF_HOME"]).parent == Path("/var/lib") / unit(path)["StateDirectory"]
        _, *words = shlex.split(unit(PULL)["ExecStart"])
        assert words == ["models", "pull"]


def test_the_steps_for_systemd_leave_all_that_the_units_name(tmp_path: Path) -> None:
    """Run as they stand, below another root and without root's rights: accounts, pip and systemd are stand-ins."""
    root, bin_, called = tmp_path / "root", tmp_path / "bin", tmp_path / "called"
    (root / "opt").mkdir(parents=True)
    bin_.mkdir()
    venv = f'#!/bin/bash\nmkdir -p "$3/bin"\nprintf \'#!/bin/bash\\necho "pip $*" >> {called}\\n\' > "$3/bin/pip"\n'
    note = f'#!/bin/bash\necho "${{0##*/}} $*" >> {called}\n'
    for name, script in {"python3": f'{venv}chmod +x "$3/bin/pip"\n', "useradd": note, "systemctl": note}.items():
        (bin_ / name).write_text(script)
        (bin_ / name).chmod(0o755)
    here = tmp_path / "repository"
    here.mkdir()
    for name in ("deploy", "requirements", "pyproject.toml"):
        (here / name).symlink_to(ROOT / name)
    (here / "worker.env").write_text("AWS_S3_BUCKET=pictures\n")
    for command in root_commands():
        below = re.sub(r"(?<= )/(etc|opt)|^/(opt)", lambda found: f"{root}/{found[1] or found[2]}", command)
        below = below.replace(" -g sdxl-worker", "")
        done = subprocess.run(
            ["bash", "-c", below], cwd=here, capture_output=True, text=True, check=False, timeout=60,
            env=os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
    installed = sorted(path.name for path in (root / "etc/systemd/system").iterdir())
    assert installed == sorted(path.name for path in (*UNITS, PULL))
    for path in (*UNITS, PULL):
        assert (root / unit(path)["EnvironmentFile"].lstrip("/")).is_file()
        secrets = root / environment(path)["SECRETS_DIR"].lstrip("/")
        assert secrets.is_dir(), "a worker ends where SECRETS_DIR is no folder"
        assert secrets.stat().st_mode & 0o007 == 0
        assert unit(path)["ExecStart"].startswith("/opt/sdxl-worker/bin/sdxl-worker ")
    pips = [line.split() for line in called.read_text().splitlines() if line.startswith("pip install ")]
    lock = Path(pips[0][pips[0].index("-r") + 1])
    assert (here / lock).is_file()
    assert "--require-hashes" in pips[0]
    assert pips[1][-1] == "."
    assert (
        f"useradd --system --user-group --home-dir /var/lib/sdxl-worker --shell /usr/sbin/nologin {unit(PULL)['User']}"
        in (called.read_text())
    )


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
