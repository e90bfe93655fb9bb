"""Main memory, as far as this process may use it, and room on the disks that a worker writes to."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.doctor.finding import Finding, failed, ok, skipped, warning
from worker.doctor.model import weights_bytes
from worker.settings import Settings

# Python, torch, CUDA's libraries and pictures under way.
_PROCESS_BYTES = 4e9
# What `models pull` fetches of SDXL's base and refiner in half precision.
_DOWNLOAD_BYTES = 14e9
_TEMPORARY_BYTES = 1e9


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory: all that this process may have, and what is free of it."""

    total: float
    available: float
    limited_by: str


def check_memory(settings: Settings) -> Iterator[Finding]:
    """Compare the memory with what the models need."""
    memory = read_memory()
    if memory is None:
        yield skipped("memory", "this system does not tell it in /proc/meminfo")
        return
    yield judge_memory(memory, weights_bytes(settings))


def judge_memory(memory: Memory, weights: int | None) -> Finding:
    """What it means to have so much memory; `weights` is the models' size, None where it is not known."""
    text = f"{memory.total / 1e9:.1f} GB ({memory.limited_by}), {memory.available / 1e9:.1f} GB of it available"
    # Weights are read into main memory, one model after the other, before they go to the device.
    needed = (13e9 if weights is None else weights) + _PROCESS_BYTES
    about = f"a worker with these models needs about {needed / 1e9:.0f} GB"
    if memory.total < needed:
        return failed("memory", f"{text}; {about}", "use a larger machine, or raise the container's memory limit")
    if memory.available < needed:
        return warning("memory", f"{text}; {about}", "end what else uses it, unless that is the worker itself")
    return ok("memory", text)


def read_memory(root: Path = Path("/")) -> Memory | None:
    """The machine's memory, or the container's where that is less; None where nothing tells."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        told = {name: float(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        memory = Memory(told["MemTotal"], told["MemAvailable"], "this machine")
    except (OSError, KeyError, IndexError, ValueError):
        return None
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            total, taken = float((root / limit).read_text()), float((root / used).read_text())
        except (OSError, ValueError):  # "max" is no limit
            continue
        if total < memory.total:
            memory = Memory(total, min(memory.available, max(0.0, total - taken)), "this container's limit")
    return memory


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Room for the models that are not here yet, and for temporary files."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    if weights_bytes(settings) is None:
        yield _room("disk: models", home, _DOWNLOAD_BYTES, "set HF_HOME to a larger disk, or pull the models there")
    else:
        yield skipped("disk: models", "nothing has to be downloaded")
    yield _room("disk: temporary", Path(tempfile.gettempdir()), _TEMPORARY_BYTES, "set TMPDIR to a larger disk")


def _room(subject: str, folder: Path, needed: float, cure: str) -> Finding:
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return failed(subject, f"{folder}: {error.strerror}", cure)
    text = f"{free / 1e9:.1f} GB free for {folder}"
    if not os.access(there, os.W_OK):
        return failed(subject, f"{folder} cannot be written", cure)
    if free < needed:
        return warning(subject, f"{text}, where about {needed / 1e9:.0f} GB may be needed", cure)
    return ok(subject, text)
