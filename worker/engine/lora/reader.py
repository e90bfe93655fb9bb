"""Read a LoRA's file by its name, and refuse what is wrong with it in the words of the request's failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from worker.engine.lora.batch import placed
from worker.engine.lora.change import Change
from worker.engine.lora.file import LoraFile, LoraTarget, read
from worker.engine.lora.location import Stamp, locate
from worker.engine.lora.unfit import Unfit
from worker.errors import ErrorCode, RequestRejected


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader has found of a LoRA; `file` is None where the cache has the same already.

    `ready` holds changes by component as hooks need them, in host memory.
    """

    name: str
    stamp: Stamp
    file: LoraFile | None = None
    ready: dict[str, dict[str, Change]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoraReader:
    """Reads from one folder for one model. Any thread may use it.

    Args:
        prepare: the components whose changes hooks will apply, with the model's precision.
    """

    folder: Path | None
    target: LoraTarget
    prepare: Mapping[str, torch.dtype]

    def locate(self, name: str) -> tuple[Path, Stamp]:
        """Return the path and the stamp of a LoRA's file.

        Raises:
            RequestRejected: `unknown_lora`, with the reason.
        """
        try:
            return locate(self.folder, name)
        except Unfit as reason:
            raise _rejected(name, reason) from None

    def read(self, name: str, path: Path, stamp: Stamp) -> Found:
        """Read, hash and convert a LoRA's file.

        Raises:
            RequestRejected: `unknown_lora`, with the reason.
        """
        try:
            file = read(path, self.target)
        except Unfit as reason:
            raise _rejected(name, reason) from reason.__cause__
        host = torch.device("cpu")
        ready = {
            component: {module: placed(change, host, dtype) for module, change in file.changes[component].items()}
            for component, dtype in self.prepare.items()
        }
        return Found(name, stamp, file, ready)


def _rejected(name: str, reason: Unfit) -> RequestRejected:
    return RequestRejected(ErrorCode.UNKNOWN_LORA, f"LoRA {name}: {reason}")
