"""Identify what a worker draws with: every byte of weights, configurations and tokenizers."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from worker.models.digest_cache import DigestCache
from worker.models.packaging import check_single_file
from worker.models.pull import locate
from worker.models.single_file import config_files

FINGERPRINT_HEX_DIGITS = 16

_LFS_BLOB = re.compile(r"[0-9a-f]{64}")


class Ahead:
    """Compute fingerprints on a thread of their own while the models are loaded, so that the files are read once.

    Whichever of the two comes to a part of a file first brings it from the disk into the system's cache.
    """

    def __init__(self, compute: Callable[[], list[str]]) -> None:
        self._compute = compute
        self._found: list[str] = []
        self._error: Exception | None = None
        # A daemon: where loading fails, nobody waits for it.
        self._thread = threading.Thread(target=self._run, name="fingerprint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self._compute()
        except Exception as error:  # whatever it is, the caller of `result` gets it
            self._error = error

    def result(self) -> list[str]:
        """Wait for the fingerprints. Raises what computing them raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found


def fingerprint(
    model_id: str, *, dtype: torch.dtype, cache_dir: Path | None = None, digests: DigestCache | None = None
) -> str:
    """Return 16 hex digits that identify what is loaded for a model id at this precision.

    The fingerprint is the start of the SHA-256 over the sorted names and SHA-256s of all files that are loaded. Weights
    count by the name of their component only, so that a single file may be renamed. This reads all files
    (7 GB take 5 to 20 s); sampling would be faster, but could not tell apart two fine-tunes that differ in one
    layer. In the hub's cache a weight file is named by its SHA-256, and that name is trusted: this is free, but does
    not detect a file that was damaged later (`models pull` does).

    Args:
        digests: remembers the digests of weights between starts.

    Raises:
        ModelLoadError: as raised by `load_base`.
    """
    digest = (digests or DigestCache(None)).digest
    files = locate(model_id, half=dtype in {torch.float16, torch.bfloat16}, cache_dir=cache_dir)
    if files.is_single_file:
        configs = config_files(files.root, check_single_file(model_id, files.root))
        lines = [f"weights {digest(files.root, sha256)}\n", *_lines(configs)]
    else:
        lines = [f"{path.parent.name} {digest(path, sha256)}\n" for path in files.weights]
        lines += _lines(files.configs)
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:FINGERPRINT_HEX_DIGITS]


def sha256(file: Path) -> str:
    """Return the file's SHA-256 in hex; that of a weight file in the hub's cache is its name there."""
    blob = file.resolve()
    if blob.parent.name == "blobs" and _LFS_BLOB.fullmatch(blob.name):
        return blob.name
    return digest_of(blob)


def digest_of(file: Path) -> str:
    """Return the SHA-256 of the file's bytes in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _lines(configs: Iterable[Path]) -> list[str]:
    # Two folders are never of the same name and file: `unet/config.json`, `vae/config.json`.
    return [
        f"{path.parent.name if path.name != 'model_index.json' else ''}/{path.name} {sha256(path)}\n"
        for path in configs
    ]
