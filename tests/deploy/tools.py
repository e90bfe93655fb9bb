"""Helpers of the deployment tests: programs that may be missing, and YAML."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

# libyaml's loader where PyYAML was built with it: a rendered overlay takes a second without.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

ROOT = Path(__file__).resolve().parents[2]
NOT_VALIDATED = "not validated"


def program(name: str, comes_with: str) -> str:
    """The path of a program, beside this interpreter or on the PATH; else skip the test, and in CI fail it."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        missing(f"`{name}` was not found: it comes with {comes_with}")
    assert found is not None
    return found


def module(name: str, package: str) -> Any:
    """A module of the dev requirements; else skip the test, and in CI fail it."""
    if importlib.util.find_spec(name) is None:
        missing(f"the module {name} was not found: it comes with {package}")
    return importlib.import_module(name)


def missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{NOT_VALIDATED}, and CI must: {reason}")
    pytest.skip(f"{NOT_VALIDATED}: {reason}")


def run(*command: str | Path, timeout_s: float = 600.0) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=timeout_s, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def documents(text: str) -> list[dict[str, Any]]:
    """The documents of a YAML stream."""
    return [document for document in yaml.load_all(text, _LOADER) if document]


def load(path: Path) -> Any:
    """A YAML file of one document."""
    return yaml.load(path.read_text(), _LOADER)


def deploy_commands(heading: str) -> list[str]:
    """The commands of a section of docs/deploy.md."""
    return page_commands("deploy.md", heading)


def page_commands(page: str, heading: str) -> list[str]:
    """The commands of a page of docs/ below this heading and before the next one of any level; lists may hold them."""
    text = (ROOT / "docs" / page).read_text()
    section = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
    return [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
