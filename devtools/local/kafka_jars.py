"""Kafka's jars for this machine, resolved by Maven once and kept; and whether Java is there to run them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from devtools.local.process import ProcessError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
POM = PROJECT_ROOT / "deploy" / "kafka" / "pom.xml"
CACHE_VARIABLE = "SDXL_WORKER_CACHE"

MIN_JAVA = 17
MAVEN_TIMEOUT_S = 600.0


class JavaMissingError(RuntimeError):
    """Java 17 or newer, or Maven, is not installed here."""


def check_java() -> None:
    """Raise `JavaMissingError`, saying what to install, unless Java 17 or newer and Maven are on the PATH."""
    for program, package in (("java", "a JDK or JRE, version 17 or newer"), ("mvn", "Maven")):
        if shutil.which(program) is None:
            raise JavaMissingError(f"`{program}` was not found: Apache Kafka needs {package}")
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < MIN_JAVA:
        found = told.splitlines()[0] if told else "no version"
        raise JavaMissingError(f"Apache Kafka needs Java {MIN_JAVA} or newer, `java -version` says: {found}")


def kafka_jars() -> Path:
    """Return the folder of Kafka's jars, resolved by Maven on the first call and reused by every later run.

    It lies in `$SDXL_WORKER_CACHE`, else in `.cache` of the project. Two processes may race: each resolves
    into a folder of its own, and the first to rename it wins.
    """
    cache = Path(os.environ.get(CACHE_VARIABLE) or PROJECT_ROOT / ".cache").absolute()
    jars = cache / f"kafka-libs-{_pom_version()}"
    if not jars.is_dir():
        check_java()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="kafka-libs-partial-") as partial:
            _copy_dependencies(Path(partial) / "jars")
            try:
                (Path(partial) / "jars").rename(jars)
            except OSError:  # it is there and not empty: another process was first
                if not jars.is_dir():
                    raise
    return jars


def _pom_version() -> str:
    """Return the pom's Kafka version and a digest of the pom, so that any change to it resolves anew."""
    if not POM.is_file():
        raise ProcessError(f"{POM} is missing: local Kafka runs from a checkout of the project")
    text = POM.read_text()
    version = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", text)
    if version is None:
        raise ProcessError(f"{POM} names no kafka.version")
    return f"{version[1]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _copy_dependencies(target: Path) -> None:
    command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    run_to_end([*command, f"-DoutputDirectory={target}"], MAVEN_TIMEOUT_S, "Maven could not resolve Kafka's jars")


def run_to_end(command: Sequence[str], timeout_s: float, complaint: str) -> None:
    """Run one of Java's programs. Raises ProcessError with the complaint and what the program said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode != 0:
        raise ProcessError(f"{complaint}:\n{(done.stdout + done.stderr)[-4000:]}")
