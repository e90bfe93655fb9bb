"""Find LoRA files by name, and notice when one has been replaced."""

from __future__ import annotations

import os
from pathlib import Path

from worker.engine.lora.unfit import Unfit
from worker.lora_folder import SUFFIX, lora_file

MAX_FILE_BYTES = 4 << 30

# Device, inode, status change time (ns), modification time (ns) and size (bytes). Who writes into a file can keep its
# size and set its modification time, but not its status change time, and a file that is moved there has another inode.
# A hash of the content would say the same, but reading 200 MB for every job takes too long.
Stamp = tuple[int, int, int, int, int]


def locate(folder: Path | None, name: str) -> tuple[Path, Stamp]:
    """Return the path of a LoRA's file, with links resolved, and its stamp.

    Raises:
        Unfit: there is no folder or no such file, or the file lies outside the folder or is too large.
    """
    if folder is None:
        raise Unfit("this worker has no LoRA folder (SDXL_LORA_PATH)")
    try:
        root = folder.resolve()
        path = lora_file(root, name).resolve(strict=True)
        status = path.stat()
    except (OSError, ValueError, RuntimeError):
        raise Unfit(f"the LoRA folder has no readable {name}{SUFFIX}") from None
    if not path.is_relative_to(root):
        raise Unfit("its file is outside the LoRA folder")
    if not path.is_file():
        raise Unfit("it is not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise Unfit(f"its file is larger than {MAX_FILE_BYTES >> 30} GiB")
    return path, _stamp(status)


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size
