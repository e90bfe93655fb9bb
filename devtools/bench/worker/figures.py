"""The committed figures that a run is compared with: one file for each kind of machine."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

FOLDER = Path(__file__).parent / "figures"

Figures = Mapping[str, Sequence[float]]


def machine_kind() -> str:
    """Name this kind of machine: the processor's model, its cores, and the class of its memory; never its host."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return kind_of(_cpu_model(), os.cpu_count() or 1, memory_gib)


def kind_of(cpu: str, cores: int, memory_gib: float) -> str:
    """Return the name of a file: `amd-epyc-2-cores-32-gb`; memory is rounded up to a power of two."""
    words = re.findall(r"[a-z0-9]+", cpu.lower())
    memory = 1
    while memory < memory_gib:
        memory *= 2
    return "-".join([*words, str(cores), "cores", str(memory), "gb"])


def load(kind: str, folder: Path | None = None) -> Figures:
    """Return the committed figures of a kind of machine; none where there is no file."""
    file = (folder or FOLDER) / f"{kind}.json"
    return cast("Figures", json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def keep(kind: str, found: Figures, folder: Path | None = None) -> Path:
    """Write figures in place of the committed ones of the same keys, and return the file."""
    file = (folder or FOLDER) / f"{kind}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        f"{json.dumps(key)}: {json.dumps(list(values))}"
        for key, values in sorted({**load(kind, folder), **found}.items())
    )
    file.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")
    return file


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return found[1] if found else platform.machine()
