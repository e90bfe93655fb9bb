"""How each language's examples are started; what they need is downloaded once and cached."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from devtools.local.kafka_jars import run_to_end
from devtools.local.npm import cache, node_project
from devtools.local.process import ProcessError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# Go compiles its libraries for a minute, so only `make examples` sets this.
ALL_VARIABLE = "EXAMPLES_IN_ALL_LANGUAGES"
NOT_RUN = "the examples were not run"
INSTALL_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Commands:
    """The command lines of one language's two programs."""

    producer: tuple[str, ...]
    notifier: tuple[str, ...]


def commands(language: str) -> Commands:
    """What to run; skips the calling test, with the reason, where the toolchain or what it downloads is missing."""
    try:
        return {"python": _python, "node": _node, "java": _java, "go": _go}[language]()
    except ProcessError as error:
        pytest.skip(f"{NOT_RUN} in {language}: {error}")


def _python() -> Commands:
    folder = EXAMPLES / "python"
    return Commands((sys.executable, str(folder / "producer.py")), (sys.executable, str(folder / "notifier.py")))


def _node() -> Commands:
    _need("node", "npm")
    project = node_project(EXAMPLES / "node")
    return Commands(("node", str(project / "producer.js")), ("node", str(project / "notifier.js")))


def _java() -> Commands:
    _need("java", "mvn")
    folder = EXAMPLES / "java"
    java = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{_java_libraries(folder / 'pom.xml')}/*")
    return Commands((*java, str(folder / "Producer.java")), (*java, str(folder / "Notifier.java")))


def _java_libraries(pom: Path) -> Path:
    jars = cache() / f"examples-java-{hashlib.sha256(pom.read_bytes()).hexdigest()[:8]}"
    if not jars.is_dir():
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache(), prefix="examples-java-partial-") as partial:
            made = Path(partial) / "jars"
            command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
            run_to_end([*command, f"-DoutputDirectory={made}"], INSTALL_TIMEOUT_S, "Maven could not resolve the jars")
            made.rename(jars)
    return jars


def _go() -> Commands:
    if not os.environ.get(ALL_VARIABLE):
        pytest.skip(f"{NOT_RUN} in go: `make examples` does it")
    _need("go")
    built = cache() / "examples-go"
    built.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["go", "build", "-o", f"{built}/", "./producer", "./notifier"],
        cwd=EXAMPLES / "go", capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise ProcessError(done.stdout + done.stderr)
    return Commands((str(built / "producer"),), (str(built / "notifier"),))


def _need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise ProcessError(f"{' and '.join(missing)} not found")
