"""A simulated S3 store in memory, with the interface of `delivery.upload.PictureStore`."""

from __future__ import annotations

from typing import Any

from tests.sim.faults import Fault, Port
from worker.delivery.encode import EncodedPicture
from worker.delivery.keys import Keys, object_keys
from worker.delivery.manifest import dump_manifest, load_manifest
from worker.errors import StoreUnavailable


class Bucket:
    """What is durable; every worker's store shows the same."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.up = True


class FakeStore:
    """One worker's way to the bucket; a picture goes there object by object."""

    def __init__(self, bucket: Bucket, port: Port) -> None:
        self._bucket, self._port = bucket, port

    def put_picture(self, keys: Keys, encoded: EncodedPicture, manifest: dict[str, Any]) -> None:
        self._put(keys.image, encoded.data)
        self._put(keys.thumbnail, encoded.thumbnail)
        self._put(keys.manifest, dump_manifest(manifest))

    def put_checkpoint(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def fetch_manifest(self, girl_id: str, job_id: str) -> dict[str, Any] | None:
        data = self.fetch(object_keys(girl_id, job_id, "jpeg").manifest)
        return None if data is None else load_manifest(data)

    def fetch(self, key: str) -> bytes | None:
        def get() -> bytes | None:
            self._refuse_if_down()
            return self._bucket.objects.get(key)

        return self._port.call("get", get, _error)

    def url(self, key: str) -> str:
        return f"sim://{key}"

    def _put(self, key: str, body: bytes) -> None:
        def put() -> None:
            self._refuse_if_down()
            self._bucket.objects[key] = body

        self._port.call("put", put, _error)

    def _refuse_if_down(self) -> None:
        if not self._bucket.up:
            raise StoreUnavailable("simulated outage")


def _error(_fault: Fault) -> Exception:
    return StoreUnavailable("simulated")
