"""Remember the SHA-256 of large files between starts, by path, inode, size and times; a lost cache costs only time.

Nothing in the cache is believed unless it is whole and about exactly this file: a file that was replaced or written
since has another inode, size or change time (`ctime`, which programs cannot set). What is not noticed is a disk that
decays without a write, as with the names in the hub's cache; `models pull` compares those files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Of a broken or foreign file no more than this is read.
_MAX_BYTES = 1_000_000
_MAX_FILES = 256
# A file that was written so lately may be written again within the resolution of its times.
_SETTLED_S = 3.0
# Smaller files are read again as fast as the cache is.
_WORTH_BYTES = 64_000_000

_log = structlog.get_logger()


def default_place() -> Path | None:
    """Return the usual place of the cache, below the user's own folder for caches; None for a user without a home."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return home / "sdxl-worker" / "digests.json"


class DigestCache:
    """The digests of large files, in a JSON file that several workers may share.

    Args:
        place: the file, which need not exist; None: nothing is remembered.
        now: seconds since the epoch.
        worth_bytes: smaller files are not remembered.
    """

    def __init__(
        self, place: Path | None, now: Callable[[], float] = time.time, *, worth_bytes: int = _WORTH_BYTES
    ) -> None:
        self._place = place
        self._now = now
        self._worth_bytes = worth_bytes

    def digest(self, file: Path, compute: Callable[[Path], str]) -> str:
        """Return the SHA-256 of `file` in hex: what is remembered of exactly this file, else what `compute` returns.

        Raises:
            OSError: the file cannot be read; never for the cache's own sake.
        """
        if self._place is None or file.stat().st_size < self._worth_bytes:
            return compute(file)
        path, before = os.path.realpath(file), _identity(file)
        known = self._read().get(path)
        if known is not None and known["identity"] == before:
            return str(known["sha256"])
        sha256 = compute(file)
        changed_s = max(before[3], before[4]) / 1e9
        if _identity(file) == before and self._now() - changed_s > _SETTLED_S:
            self._remember(path, {"identity": before, "sha256": sha256})
        return sha256

    def _read(self) -> dict[str, Any]:
        assert self._place is not None
        try:
            with self._place.open("rb") as stream:
                data = stream.read(_MAX_BYTES + 1)
            content = json.loads(data)
            files = content["files"]
            if content["version"] != _VERSION or content["check"] != _check(files) or len(data) > _MAX_BYTES:
                return {}
            return {path: entry for path, entry in files.items() if _SHA256.fullmatch(entry["sha256"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def _remember(self, path: str, entry: dict[str, Any]) -> None:
        """Write what is there and the new entry, in one move, so that a reader finds a whole file."""
        assert self._place is not None
        # Another worker may have written in between; of two at the same moment one is forgotten, and computed again.
        files = self._read()
        files.pop(path, None)
        files = dict(list(files.items())[-(_MAX_FILES - 1) :]) | {path: entry}
        text = json.dumps({"version": _VERSION, "files": files, "check": _check(files)})
        temporary = None
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._place.parent, delete=False) as stream:
                temporary = stream.name
                stream.write(text)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(self._place)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            _log.info("digest_not_remembered", place=str(self._place), reason=error.strerror)


def _identity(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _check(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
