"""Can torch use the NVIDIA GPUs of this machine? torch itself only says no, and then everything runs on the CPU."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from worker.errors import ModelLoadError

# NVIDIA's table of the oldest driver for each major version of CUDA (on Linux).
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
_HIDING = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_HIDDEN = {"", "-1", "none", "void", "NoDevFiles"}
_NAMING = "CUDA_VISIBLE_DEVICES"
_DRIVER_LIBRARY = "libcuda.so.1"
# torch's wheels for CUDA 13 and for CUDA 12.
_PACKAGES = {"cublas": ("nvidia-cublas", "nvidia-cublas-cu12"), "triton": ("triton",)}
_ADVICE = "set DEVICE=cpu to work without it"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the operating system knows of NVIDIA GPUs.

    Args:
        gpus: how many the kernel driver offers to this process.
        driver: the driver's version, as 550.54.14; None where it cannot be read.
        hidden: whether the environment hides all of them on purpose.
        closed: a device file that this user may not open; None where there is none.
        promised: the environment asks the container's runtime for GPUs (NVIDIA_VISIBLE_DEVICES).
        named: what CUDA_VISIBLE_DEVICES says; None where it is not set.
        library: whether the driver's library can be loaded.
        mig: how many parts the GPUs are divided into (MIG).
    """

    gpus: int
    driver: str | None
    hidden: bool
    closed: str | None = field(default=None, kw_only=True)
    promised: bool = field(default=False, kw_only=True)
    named: str | None = field(default=None, kw_only=True)
    library: bool = field(default=True, kw_only=True)
    mig: int = field(default=0, kw_only=True)


def look_at_machine(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Machine:
    """Look for device files, the driver's version and the variables that hide GPUs."""
    # A container has only the devices that it was given, while /proc shows the driver of the host.
    devices = [path for path in root.glob("dev/nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
    needed = [*sorted(devices), root / "dev/nvidiactl", root / "dev/nvidia-uvm"]
    closed = next((path for path in needed if path.exists() and not os.access(path, os.R_OK | os.W_OK)), None)
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    version = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    hidden = any(environment.get(name, "all") in _HIDDEN for name in _HIDING)
    return Machine(
        len(devices),
        None if version is None else version[1],
        hidden,
        closed=None if closed is None else f"/{closed.relative_to(root)}",
        promised=bool(environment.get("NVIDIA_VISIBLE_DEVICES")),
        named=environment.get(_NAMING),
        library=_has_driver_library(),
        mig=sum(1 for _ in root.glob("proc/driver/nvidia/capabilities/gpu*/mig/gi*/ci*")),
    )


def unusable_gpus(machine: Machine, cuda: str | None) -> str | None:
    """Why torch sees no GPU although there are some; None where there are none, or where they are hidden.

    A container that was given no GPU has none, whatever its host has, unless it was meant to have some.

    Args:
        cuda: the version that torch was built for, as 13.0; None for a build without CUDA.
    """
    if machine.hidden:
        return None
    if machine.gpus == 0:
        if machine.driver is None or not machine.promised:
            return None
        return (
            "NVIDIA_VISIBLE_DEVICES asks for GPUs, and this container was given none of its host's: start it with the "
            f"NVIDIA container toolkit (docker run --gpus all, or runtimeClassName: nvidia), or {_ADVICE}"
        )
    there = "an NVIDIA GPU is there" if machine.gpus == 1 else f"{machine.gpus} NVIDIA GPUs are there"
    if cuda is None:
        return f"{there}, but this torch is built without CUDA: install PyPI's build for Linux, or {_ADVICE}"
    oldest = _OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    if machine.driver is not None and oldest is not None and int(machine.driver.split(".")[0]) < oldest:
        return (
            f"{there}, but the driver {machine.driver} is too old for CUDA {cuda}: install {oldest} or newer on the "
            f"host, or {_ADVICE}"
        )
    if machine.closed is not None:
        return f"{there}, but this user may not open {machine.closed}: add it to the file's group, or {_ADVICE}"
    if not machine.library:
        return (
            f"{there}, but the driver's library {_DRIVER_LIBRARY} is not: in a container, start it with the NVIDIA "
            f"container toolkit (docker run --gpus all), or {_ADVICE}"
        )
    if machine.named is not None:
        parts = ", divided into parts (MIG)" if machine.mig else ""
        return (
            f"{there}{parts}, but torch can use none with {_NAMING}={machine.named}: see whether nvidia-smi -L lists "
            f"that, or {_ADVICE}"
        )
    driver = "" if machine.driver is None else f" (driver {machine.driver})"
    return f"{there}, but torch cannot use it{driver}: see whether nvidia-smi works here, or {_ADVICE}"


def unsupported_card(name: str, capability: tuple[int, int], built_for: Iterable[str]) -> str | None:
    """Why a card cannot run this torch: it has no kernels for it; None where it has.

    Args:
        capability: the card's compute capability, as (6, 1).
        built_for: the architectures that torch was built for, as sm_75 or, to be compiled by the driver, compute_90.
    """
    major, minor = capability
    known = [(kind, int(digits[:-1]), int(digits[-1])) for kind, digits in map(_split, built_for) if digits]
    runs = any(
        (kind == "sm" and their_major == major and their_minor <= minor)
        or (kind == "compute" and (their_major, their_minor) <= capability)
        for kind, their_major, their_minor in known
    )
    if runs or not known:
        return None
    oldest = min((their_major, their_minor) for _, their_major, their_minor in known)
    newest = max((their_major, their_minor) for _, their_major, their_minor in known)
    if capability > newest:
        return (
            f"{name} has compute capability {major}.{minor}, which is newer than this torch knows "
            f"({newest[0]}.{newest[1]}): install a newer worker, or {_ADVICE}"
        )
    return (
        f"{name} has compute capability {major}.{minor}, and this torch needs {oldest[0]}.{oldest[1]} or newer "
        f"(7.5 is Turing: GTX 16, RTX 20, T4): use another card, or {_ADVICE}"
    )


def cuda_trouble(index: int = 0) -> str | None:
    """Why torch cannot compute on this machine's GPU of this index; None where it can, and where there is none."""
    if torch.version.hip is not None:
        return None
    if not torch.cuda.is_available():
        return unusable_gpus(look_at_machine(), torch.version.cuda)
    if index >= torch.cuda.device_count():
        return None
    try:
        properties = torch.cuda.get_device_properties(index)
    except RuntimeError as error:
        return _not_opened(f"GPU {index}", error)
    return unsupported_card(properties.name, (properties.major, properties.minor), torch.cuda.get_arch_list())


def free_memory(device: torch.device) -> int:
    """Open the card, and return the bytes of its memory that no program has taken.

    Raises:
        ModelLoadError: it cannot be opened: all of its memory is taken, it is another program's alone, or broken.
    """
    try:
        free, _ = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        raise ModelLoadError(f"DEVICE: {_not_opened(torch.cuda.get_device_name(device), error)}") from error
    return int(free)


def _not_opened(name: str, error: RuntimeError) -> str:
    # torch adds lines of general advice.
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{name} cannot be opened ({reason}): see nvidia-smi for what uses it and for errors, or {_ADVICE}"


def _has_driver_library() -> bool:
    try:
        ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError:
        return False
    return True


def pin_kernels() -> None:
    """Let nothing but shapes decide which kernels run: no algorithm is chosen by a timing, nor attention by heuristics.

    Attention is FlashAttention, the memory-efficient kernel where that cannot do it (Turing, the VAE's wide heads), or
    plain arithmetic; torch tries them in this order. cuDNN's attention, whose plans depend on its version, is off.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.backends.cuda.enable_math_sdp(True)


def kernel_versions() -> dict[str, str]:
    """Return the versions, where they are known, of what computes on a CUDA device: cuDNN, cuBLAS, Triton, driver."""
    cudnn: Any = torch.backends.cudnn
    found = {"cudnn": str(cudnn.version() or ""), "driver": look_at_machine().driver or ""}
    for name, packages in _PACKAGES.items():
        found[name] = next(filter(None, map(_installed, packages)), "")
    return {name: version for name, version in sorted(found.items()) if version}


def is_geforce(name: str) -> bool:
    """Whether a card sums up half-precision products in float32 at half the speed, as GeForce cards do."""
    return "GeForce" in name


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _split(architecture: str) -> tuple[str, str]:
    """`sm_90a` is ("sm", "90")."""
    kind, _, digits = architecture.partition("_")
    return kind, re.sub(r"\D", "", digits)
