"""A simulated S3 store in memory, with the interface of `delivery.upload.PictureStore`."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.sim.faults import Fault, Port
from worker.delivery.encode import EncodedPicture
from worker.delivery.keys import Keys, object_keys
from worker.delivery.picture_put import read_manifest, store_picture
from worker.delivery.s3_errors import ConditionFailed
from worker.delivery.s3_objects import Label, StoredObject
from worker.errors import StoreUnavailable

_NO_LABEL = Label("", "")


class Bucket:
    """What is durable; every worker's store shows the same."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.up = True


class FakeStore:
    """One worker's way to the bucket; a picture goes there object by object."""

    def __init__(self, bucket: Bucket, port: Port) -> None:
        self._bucket, self._port = bucket, port

    def put_picture(self, keys: Keys, encoded: EncodedPicture, manifest: dict[str, Any]) -> dict[str, Any]:
        return store_picture(self, keys, encoded, manifest)

    def put_checkpoint(self, key: str, data: bytes) -> None:
        self.put(key, data, _NO_LABEL)

    def fetch_manifest(self, girl_id: str, job_id: str) -> dict[str, Any] | None:
        return read_manifest(self, girl_id, job_id, object_keys(girl_id, job_id, "jpeg").manifest)

    def fetch(self, key: str) -> bytes | None:
        there = self.get(key)
        return None if there is None else there.data

    # What `delivery.picture_put` needs.

    def get(self, key: str) -> StoredObject | None:
        def get() -> StoredObject | None:
            self._refuse_if_down()
            data = self._bucket.objects.get(key)
            return None if data is None else StoredObject(data, _etag(data))

        return self._port.call("get", get, _error)

    def etag(self, key: str) -> str | None:
        there = self.get(key)
        return None if there is None else there.etag

    def put(self, key: str, body: bytes, _label: Label, *, absent: bool = False, replacing: str | None = None) -> str:
        def put() -> str:
            self._refuse_if_down()
            there = self._bucket.objects.get(key)
            if (absent and there is not None) or (replacing and (there is None or _etag(there) != replacing)):
                raise ConditionFailed(key)
            self._bucket.objects[key] = body
            return _etag(body)

        return self._port.call("put", put, _error)

    def url(self, key: str) -> str:
        return f"sim://{key}"

    def _refuse_if_down(self) -> None:
        if not self._bucket.up:
            raise StoreUnavailable("simulated outage")


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _error(_fault: Fault) -> Exception:
    return StoreUnavailable("simulated")
