"""docs/rented-gpus.md: start commands, settings and sizes are what the worker takes."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.test_many_gpus import arguments_of_run
from tests.deploy.tools import ROOT
from worker.models import cuda
from worker.settings import Settings, librdkafka_properties

PAGE = (ROOT / "docs/rented-gpus.md").read_text()
CONSOLE = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
FOREIGN = {"HF_HOME"}


def pod() -> dict[str, Any]:
    [block] = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = json.loads(block)
    return found


def vast() -> list[str]:
    [line] = [line for line in CONSOLE if line.startswith("vastai create")]
    return shlex.split(line)


def environments() -> dict[str, dict[str, str]]:
    words = vast()
    flags = shlex.split(words[words.index("--env") + 1])
    assert flags[0::2] == ["-e"] * (len(flags) // 2), "Vast.ai passes on -e"
    # RunPod puts its secrets in where they are named so.
    filled = {name: re.sub(r"\{\{ RUNPOD_SECRET_\w+ \}\}", "secret", value) for name, value in pod()["env"].items()}
    return {"RunPod": filled, "Vast.ai": dict(flag.split("=", 1) for flag in flags[1::2])}


def starts() -> dict[str, list[str]]:
    words = vast()
    return {
        "RunPod": pod()["dockerStartCmd"],
        "Vast.ai": words[words.index("--args") + 1 :],
        "the page": shlex.split(next(line for line in CONSOLE if line.startswith("sdxl-worker run")))[1:],
    }


@pytest.mark.parametrize("where", ["RunPod", "Vast.ai", "the page"])
def test_the_start_command_is_the_command_lines(where: str) -> None:
    assert arguments_of_run(starts()[where])["pull"] is True


@pytest.mark.parametrize("where", ["RunPod", "Vast.ai"])
def test_the_settings_are_the_workers_and_fit(where: str) -> None:
    given = environments()[where]
    for name in given:
        assert name.lower() in Settings.model_fields or librdkafka_properties({name: "x"}) or name in FOREIGN, name
    known = {name.lower(): value for name, value in given.items() if name.lower() in Settings.model_fields}
    settings = Settings(_env_file=None, **known)  # type: ignore[arg-type]
    assert settings.worker_id == known["worker_id"]
    assert settings.kafka_bootstrap_servers == "kafka.example.com:9094"


def test_a_table_row_for_each_size_of_card_has_valid_settings() -> None:
    rows = re.findall(r"^\| [^|]*GB[^|]* \| ([^|]*) \|", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for row in rows:
        pairs = dict(pair.split("=") for pair in re.findall(r"[A-Z_]+=\S+(?=[` ])", row))
        Settings(_env_file=None, **{name.lower(): value for name, value in pairs.items()})


def test_disks_hold_image_and_weights() -> None:
    words = vast()
    assert int(words[words.index("--disk") + 1]) == pod()["containerDiskInGb"] == 40
    assert "disk_space>=40" in PAGE


def test_the_driver_and_the_generation_are_those_that_the_start_looks_for() -> None:
    driver = re.search(r"driver_version>=(\d+)", PAGE)
    capability = re.search(r"compute_cap>=(\d)(\d)0", PAGE)
    assert driver is not None
    assert capability is not None
    source = Path(cuda.__file__).read_text() + (ROOT / "docs/deploy.md").read_text()
    assert driver[1] in source
    assert (int(capability[1]), int(capability[2])) == (7, 5)


def test_no_port_is_open_to_the_world() -> None:
    assert pod()["ports"] == []
    assert not any(re.search(r"-p \d", word) for word in vast())


def test_pull_downloads_then_becomes_the_worker() -> None:
    code = (
        "import os, sys; import worker.cli.run as run; import worker.cli.models as models\n"
        "models.pull = lambda full, as_json: print('pulled', flush=True)\n"
        "os.execv = lambda program, words: (print(words[1:], os.environ['HF_HUB_OFFLINE'], flush=True), sys.exit(0))\n"
        "run.pull_then_run(['sdxl-worker', 'run', '--pull', '--gpus', 'all'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["pulled", "['-m', 'worker', 'run', '--gpus', 'all'] 1"]


def test_a_stop_while_it_pulls_is_a_stop() -> None:
    code = (
        "import time; import worker.cli.run as run; import worker.cli.models as models\n"
        "models.pull = lambda full, as_json: (print('pulling', flush=True), time.sleep(60))\n"
        "run.pull_then_run(['sdxl-worker', 'run', '--pull'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "pulling\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
