"""Download Kafka's jars with Maven once and cache them; check that Java is installed to run them."""

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
    """Java 17 or newer, or Maven, is not installed."""


def check_java() -> None:
    """Check that Java 17 or newer and Maven are on the PATH.

    Raises:
        JavaMissingError: one of them is not; the message says what to install.
    """
    for program, package in (("java", "a JDK or JRE, version 17 or newer"), ("mvn", "Maven")):
        if shutil.which(program) is None:
            raise JavaMissingError(f"`{program}` was not found: Apache Kafka needs {package}")
    told = java_version()
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < MIN_JAVA:
        found = told.splitlines()[0] if told else "no version"
        raise JavaMissingError(f"Apache Kafka needs Java {MIN_JAVA} or newer, but `java -version` prints: {found}")


def java_version() -> str:
    """What `java -version` prints."""
    return subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr


def kafka_jars() -> Path:
    """Return the folder of Kafka's jars; Maven downloads them at the first call, and later runs reuse them.

    The folder is in `$SDXL_WORKER_CACHE`, or in `.cache` of the project by default. If two processes do this at the
    same time, each downloads into a folder of its own, and the first one to rename its folder wins.
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
            except OSError:  # the folder exists and is not empty: another process was faster
                if not jars.is_dir():
                    raise
    return jars


def _pom_version() -> str:
    """Return the pom's Kafka version and a digest of the pom, so that any change to it causes a new download."""
    if not POM.is_file():
        raise ProcessError(f"{POM} is missing: local Kafka needs a checkout of the project")
    text = POM.read_text()
    version = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", text)
    if version is None:
        raise ProcessError(f"{POM} has no kafka.version")
    return f"{version[1]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _copy_dependencies(target: Path) -> None:
    command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    run_to_end([*command, f"-DoutputDirectory={target}"], MAVEN_TIMEOUT_S, "Maven could not resolve Kafka's jars")


def run_to_end(command: Sequence[str], timeout_s: float, complaint: str) -> None:
    """Run a Java program until it ends.

    Raises:
        ProcessError: it failed; the message is `complaint` and the program's output.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode != 0:
        raise ProcessError(f"{complaint}:\n{(done.stdout + done.stderr)[-4000:]}")
