"""Read the header of a `.safetensors` file, and check that the file is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from worker.errors import ModelLoadError

# https://github.com/huggingface/safetensors#format: the header's length in 8 bytes, the header as JSON, the tensors.
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000

# The first bytes of the text that Git keeps in place of a large file that was not fetched.
_LFS_POINTER = b"version https://git-lfs"

# What diffusers converts to the worker's precision without loss of meaning. Integers are quantised weights, which mean
# nothing without their scales.
_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
# How names of weights end. Counters and flags beside them (`global_step`, `position_ids`, `ztsnr`) may be integers.
_WEIGHTS = ("weight", "bias", "projection")


@dataclass(frozen=True, slots=True)
class Tensor:
    """What the header tells of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def check_no_pointer(shown: str, file: Path) -> None:
    """Check that `file`, named `shown` in messages, is not a Git LFS pointer.

    Raises:
        ModelLoadError: it is one.
    """
    with file.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelLoadError(f"{shown} is a Git LFS pointer and not the file itself: run git lfs pull.")


def read_header(shown: str, file: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` file by name, in the file's order.

    Raises:
        ModelLoadError: the file is a Git LFS pointer, is cut short, or is not a `.safetensors` file.
    """
    check_no_pointer(shown, file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if not 0 < length <= _MAX_HEADER_BYTES:
            raise ModelLoadError(f"{shown} is not a .safetensors file.")
        data = stream.read(length)
    if len(data) < length:
        raise ModelLoadError(f"{shown} is cut short: it ends inside its header, after {size} bytes.")
    try:
        entries = {name: entry for name, entry in json.loads(data).items() if name != "__metadata__"}
        tensors = {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        needed = _LENGTH_BYTES + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError):
        raise ModelLoadError(f"{shown} is not a .safetensors file.") from None
    if size < needed:
        raise ModelLoadError(f"{shown} is cut short: it has {size} of {needed} bytes.")
    return tensors


def check_dtypes(shown: str, tensors: dict[str, Tensor]) -> None:
    """Check that the weights are floating-point numbers.

    Raises:
        ModelLoadError: a tensor is not; the message names the first one.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS and name.endswith(_WEIGHTS):
            raise ModelLoadError(
                f"{shown} holds quantised weights ({name} is {tensor.dtype}), which are not supported."
            )
