"""The commands of docs/upgrade.md run with stand-ins for Kafka's tools; one of docs/security.md runs as it is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.tools import ROOT
from worker.cli import Verbs
from worker.topics import Topics

STAND_IN = '#!/bin/sh\nprintf "%s" "$(basename "$0")" >> "$CALLED"\nprintf " %s" "$@" >> "$CALLED"\necho >> "$CALLED"\n'
TOOLS = ("kafka-topics.sh", "kafka-consumer-groups.sh", "sdxl-worker", "aws")


def commands(page: str) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def called(tmp_path: Path) -> list[list[str]]:
    """What the page's commands call, word by word."""
    programs, record = tmp_path / "bin", tmp_path / "called"
    programs.mkdir()
    for name in TOOLS:
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "KAFKA_BOOTSTRAP_SERVERS": "kafka.example.com:9092",
        "CALLED": str(record),
    }
    lines = commands("docs/upgrade.md")
    assert len(lines) >= 3
    for line in lines:
        subprocess.run(["bash", "-euo", "pipefail", "-c", line], env=environment, check=True, timeout=30)
    return [shlex.split(line) for line in record.read_text().splitlines()]


def test_all_three_lanes_get_their_partitions_and_offsets(called: list[list[str]]) -> None:
    for tool in ("kafka-topics.sh", "kafka-consumer-groups.sh"):
        calls = [words for words in called if words[0] == tool]
        assert {words[words.index("--topic") + 1] for words in calls} == set(Topics().requests)
        assert all(words[words.index("--bootstrap-server") + 1] == "kafka.example.com:9092" for words in calls)
    counts = {words[words.index("--partitions") + 1] for words in called if "--partitions" in words}
    assert len(counts) == 1, "the three topics must have the same number"
    groups = {words[words.index("--group") + 1] for words in called if "--group" in words}
    assert groups == {"sdxl-worker"}


def test_the_workers_own_commands_are_known(called: list[list[str]]) -> None:
    own = [words for words in called if words[0] == "sdxl-worker"]
    assert own
    for words in own:
        assert words[1] in Verbs.verbs


def test_the_script_for_acls_reads_every_user() -> None:
    [line] = [line for line in commands("docs/security.md") if "acls.py" in line]
    users = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "k8s").rglob("*.yaml"))
        if "kind: KafkaUser" in path.read_text().splitlines()
    ]
    interpreter, script, *named = shlex.split(line)
    assert interpreter == "python"
    assert set(named) <= set(users)
    done = subprocess.run([sys.executable, script, *users], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("User:sdxl-worker ") >= 8
    for name in ("producer", "notifier", "canceller", "dispatcher", "gateway", "webhooks"):
        assert f"User:sdxl-{name} " in done.stdout
