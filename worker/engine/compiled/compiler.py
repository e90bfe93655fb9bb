"""The compiler of the fast path: whether there is one, its options, its cache, and the graphs that it has made."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from worker.engine.compiled.region import Region

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# No kernel, algorithm or layout is chosen by a timing, which would let noise change bits. CUDA graphs are our own.
OPTIONS: Mapping[str, bool] = {
    "deterministic": True,
    "max_autotune": False,
    "coordinate_descent_tuning": False,
    "benchmark_fusion": False,
    "freezing": False,
    "triton.cudagraphs": False,
}

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Compiler:
    """Compiles regions.

    Args:
        backend: torch's name of it. Tests use `aot_eager`, which traces the same graphs and writes no kernels.
    """

    backend: str = "inductor"

    def compile(self, region: Region) -> Region:
        """Return the region compiled, which happens at its first call: one graph, static shapes."""
        how: dict[str, Any] = {"fullgraph": True, "dynamic": False, "backend": self.backend}
        if self.backend == "inductor":
            how["options"] = dict(OPTIONS)
        # The buckets' regions share their code: each counts its own graphs.
        how["isolate_recompiles"] = True
        compiled: Region = torch.compile(region, **how)
        return compiled


def graphs() -> int:
    """Return the number of graphs that were compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def no_recompilation() -> AbstractContextManager[Any]:
    """Inside, a call that would have to be compiled raises a RuntimeError instead."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("fail_on_recompile")
    return stance


def missing_tool(
    device: torch.device,
    environment: Mapping[str, str] = os.environ,
    which: Callable[[str], str | None] = shutil.which,
    has_module: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None,
) -> str | None:
    """Return what the compiler lacks on this machine, as the beginning of a sentence; None where nothing is missing."""
    if device.type == "cuda" and not has_module("triton"):
        return "Triton is not installed"
    # Inductor compiles C++ for a CPU; Triton compiles the C that launches its kernels.
    variable, usual = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++", "clang++"))
    named = environment.get(variable)
    if any(which(name) for name in ([named] if named else usual)):
        return None
    return f"no {variable} compiler is installed ({named or ' or '.join(usual)})"


def use_cache(folder: Path | None, environment: dict[str, str] | os._Environ[str] = os.environ) -> Path:
    """Let compiled kernels be kept in a folder; where it cannot be written, in a temporary one, and say so.

    Args:
        folder: None: that of TORCHINDUCTOR_CACHE_DIR, else one below the temporary folder.

    Returns:
        The folder that is used.
    """
    named = folder or (Path(environment[CACHE_VARIABLE]) if environment.get(CACHE_VARIABLE) else None)
    chosen = named or Path(tempfile.gettempdir()) / f"sdxl-worker-compiled-{os.getuid()}"
    try:
        chosen.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=chosen):
            pass
        if os.statvfs(chosen).f_flag & os.ST_NOEXEC:
            raise PermissionError(errno.EACCES, "it is mounted noexec, and kernels are loaded from it")
    except OSError as error:
        refused, chosen = chosen, Path(tempfile.mkdtemp(prefix="sdxl-worker-compiled-"))
        _log.warning("compile_cache_not_kept", folder=str(refused), reason=error.strerror, hint=f"in {chosen} instead")
    environment[CACHE_VARIABLE] = str(chosen)
    return chosen
