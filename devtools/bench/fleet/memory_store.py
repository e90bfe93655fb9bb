"""An S3 bucket in memory, so that the bench measures queues and not a disk."""

from __future__ import annotations

from typing import Any

from worker.delivery.encode import EncodedPicture
from worker.delivery.keys import Keys


class MemoryStore:
    """What a worker needs of `worker.delivery.upload.PictureStore`; it keeps which manifests were stored."""

    def __init__(self) -> None:
        self._manifests: dict[str, dict[str, Any]] = {}

    def put_picture(self, keys: Keys, encoded: EncodedPicture, manifest: dict[str, Any]) -> dict[str, Any]:
        del encoded
        return self._manifests.setdefault(keys.manifest, manifest)

    def put_checkpoint(self, key: str, data: bytes) -> None:
        """Nobody goes on with it."""

    def fetch_manifest(self, girl_id: str, job_id: str) -> dict[str, Any] | None:
        """No request is sent twice."""
        del girl_id, job_id
        return None

    def fetch(self, key: str) -> bytes | None:
        del key
        return None

    def url(self, key: str) -> str:
        return f"memory://{key}"
