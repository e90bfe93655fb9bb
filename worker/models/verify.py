"""Compare the files of a snapshot in the hub's cache with what the hub says that they are.

The cache names each file by its digest: the SHA-256 of a large file, or git's SHA-1 of a small one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from worker.errors import ModelLoadError

_SHA256, _GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def verify(model_id: str, root: Path, names: Iterable[str]) -> int:
    """Compare the files `names` of the snapshot `root`; a damaged one is deleted, so that it is fetched again.

    Returns:
        The number of files that were compared; where the cache has no links (Windows), there is no digest.

    Raises:
        ModelLoadError: a file is damaged; the message names it.
    """
    compared = 0
    for name in names:
        blob = (root / name).resolve()
        expected = blob.name if blob.parent.name == "blobs" else ""
        if _SHA256.fullmatch(expected):
            found = _sha256(blob)
        elif _GIT_SHA1.fullmatch(expected):
            found = _git_sha1(blob)
        else:
            continue
        compared += 1
        if found != expected:
            (root / name).unlink()
            blob.unlink()
            raise ModelLoadError(
                f"{model_id}: {name} was damaged (its digest is not the hub's) and is deleted: run models pull again."
            )
    return compared


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _git_sha1(file: Path) -> str:
    """Return git's name of a file's content: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects."""
    data = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
