"""How Kafka's Java programs are run: with little memory, few threads, and a quick start.

Most of a broker's start is the loading of some 8,000 classes. The JVM can map them from an archive instead (AppCDS),
which halves the processor time of a start; the archive is made once for each version of Kafka and of Java.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from devtools.local.kafka_jars import java_version

# The C2 compiler and a parallel collector only slow down what is mostly class loading.
_JVM_OPTIONS = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# An archive that does not fit, as after a move of the jars, is ignored; nothing is printed about it.
_SILENT = ("-Xlog:cds=off", "-Xlog:cds+dynamic=off")


def java(jars: Path, *arguments: str, log4j: Path, options: Sequence[str]) -> list[str]:
    """The command that runs one of Kafka's programs; `options` are those of `reading` or `writing`."""
    return [
        *("java", *_JVM_OPTIONS, *_SILENT, *options),
        *(f"-Dlog4j2.configurationFile={log4j}", "-cp", f"{jars}/*", *arguments),
    ]


def reading(archive: Path) -> list[str]:
    """The JVM's options that load classes from an archive."""
    return [f"-XX:SharedArchiveFile={archive}"]


def writing(archive: Path) -> list[str]:
    """The JVM's options that write an archive of the loaded classes, at an orderly end."""
    return [f"-XX:ArchiveClassesAtExit={archive}"]


def class_archive(jars: Path, write: Callable[[Path], None]) -> Path:
    """Return the archive beside the folder of the jars; made by `write` if it is missing.

    One process makes it, and others wait meanwhile. If `write` leaves no file, an empty one stands for it, so that this
    is not tried at every start.
    """
    version = hashlib.sha256(java_version().encode()).hexdigest()[:8]
    archive = jars.with_name(f"{jars.name}-{version}.jsa")
    if not archive.exists():
        with archive.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not archive.exists():
                partial = archive.with_suffix(".partial")
                write(partial)
                partial.touch()
                partial.rename(archive)
    return archive
