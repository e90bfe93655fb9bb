"""Read a LoRA's file by its name, and refuse what is wrong with it in the words of the request's failure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.engine.lora.file import LoraFile, LoraTarget, read
from worker.engine.lora.location import Stamp, locate
from worker.engine.lora.unfit import Unfit
from worker.errors import ErrorCode, RequestRejected


@dataclass(frozen=True, slots=True)
class LoraReader:
    """Reads from one folder for one model. Any thread may use it."""

    folder: Path | None
    target: LoraTarget

    def locate(self, name: str) -> tuple[Path, Stamp]:
        """Return the path and the stamp of a LoRA's file.

        Raises:
            RequestRejected: `unknown_lora`, with the reason.
        """
        try:
            return locate(self.folder, name)
        except Unfit as reason:
            raise _rejected(name, reason) from None

    def read(self, name: str, path: Path) -> LoraFile:
        """Read, hash and convert a LoRA's file.

        Raises:
            RequestRejected: `unknown_lora`, with the reason.
        """
        try:
            return read(path, self.target)
        except Unfit as reason:
            raise _rejected(name, reason) from reason.__cause__


def _rejected(name: str, reason: Unfit) -> RequestRejected:
    return RequestRejected(ErrorCode.UNKNOWN_LORA, f"LoRA {name}: {reason}")
