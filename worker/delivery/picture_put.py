"""A picture's three objects, put so that a manifest always describes the image that is there.

Two workers may store the same picture at once: one that was stopped for a while and goes on, and the one that took its
job over. Their bytes are the same on equal cards and versions, and may differ otherwise. The rules:

1. The manifest is written once, last, and only where there is none. It marks the picture as complete.
2. An image is written where there is none, or in place of one that was just read and that no manifest describes.
3. Whoever wrote the manifest then looks whether its image is still there, and puts it back if it was replaced.
   Whoever replaced an image and finds that a manifest of the old one came in between puts the old one back.

So a late worker changes nothing of a complete picture, and gets its manifest in place of its own.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from worker.delivery.keys import Keys, legacy_manifest_key
from worker.delivery.manifest import dump_manifest
from worker.delivery.s3_errors import ConditionFailed
from worker.delivery.s3_objects import Label, Objects, StoredObject
from worker.delivery.stored_manifest import load_manifest
from worker.errors import StoreUnavailable

if TYPE_CHECKING:
    from worker.delivery.encode import EncodedPicture

log = structlog.get_logger(__name__)

PUBLIC_CACHE = "public, max-age=31536000, immutable"
PRIVATE_CACHE = "private, no-store"
_MANIFEST_LABEL = Label("application/json", PRIVATE_CACHE)
_THUMBNAIL_LABEL = Label("image/jpeg", PUBLIC_CACHE)

# How often the objects are looked at anew because another worker changes them at the same moment.
_TURNS = 5
_REPLACED_MAX = 64
_BUSY = "another worker stores the same picture at this moment"


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """What lies at a manifest's key; `content` is None where it cannot be read."""

    content: dict[str, Any] | None
    etag: str


class Replaced:
    """Images by their SHA-256 and thumbnails by their keys that were replaced by calls that have not ended."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    def note(self, name: str, data: bytes) -> None:
        """Remember what is about to be replaced."""
        self._data[name] = data
        # Calls that are never repeated, since their job was released, leave theirs behind.
        while len(self._data) > _REPLACED_MAX:
            self.forget(next(iter(self._data)))

    def get(self, name: str) -> bytes | None:
        """What was replaced, if it is remembered."""
        return self._data.get(name)

    def forget(self, name: str) -> None:
        """It was put back."""
        self._data.pop(name, None)


def read_manifest(objects: Objects, girl_id: str, job_id: str, key: str) -> dict[str, Any] | None:
    """The manifest of a complete picture, at its key or where earlier versions put it.

    Raises:
        StoreUnavailable: nobody knows; wait and ask again.
    """
    for place in (key, legacy_manifest_key(girl_id, job_id)):
        stored = _read(objects, place)
        if stored is not None and stored.content is not None:
            return stored.content
    return None


def store_picture(
    objects: Objects,
    keys: Keys,
    encoded: EncodedPicture,
    manifest: dict[str, Any],
    replaced: Replaced | None = None,
) -> dict[str, Any]:
    """Store image, thumbnail, then manifest, where that was not done yet. Safe to repeat.

    Args:
        replaced: outlives the call, so that a call that S3 interrupts and that is repeated can put back what it
            replaced.

    Returns:
        The manifest that is stored now: `manifest`, or the earlier one of a picture that was complete already.

    Raises:
        RequestRejected: an object can never be stored.
        StoreUnavailable: wait, and call again with the same arguments.
    """
    return _PictureWriter(objects, keys, encoded, manifest, replaced or Replaced()).write()


class _PictureWriter:
    """One attempt to store a picture, which remembers what it has replaced."""

    def __init__(
        self, objects: Objects, keys: Keys, encoded: EncodedPicture, manifest: dict[str, Any], replaced: Replaced
    ) -> None:
        self._objects = objects
        self._keys = keys
        self._encoded = encoded
        self._manifest = manifest
        self._image_label = Label(encoded.content_type, PUBLIC_CACHE)
        self._replaced = replaced

    def write(self) -> dict[str, Any]:
        for _ in range(_TURNS):
            try:
                etag = self._put_image()
                stored = None if etag is not None else self._complete()
                if etag is not None:
                    self._put_thumbnail(etag)
                    stored = self._put_manifest()
            except ConditionFailed:
                continue
            if stored is not None:
                self._hold(stored, etag)
                return stored
        raise StoreUnavailable(_BUSY)

    def _put_image(self) -> str | None:
        """Put the image and return its version; None where the picture is complete."""
        key, data = self._keys.image, self._encoded.data
        try:
            return self._objects.put(key, data, self._image_label, absent=True)
        except ConditionFailed:
            if self._complete() is not None:
                return None
            there = _existing(self._objects, key)
            if there.data == data:
                return there.etag
            # Left by a worker that died, or to be made anew, since its manifest was deleted.
            self._replaced.note(hashlib.sha256(there.data).hexdigest(), there.data)
            return self._objects.put(key, data, self._image_label, replacing=there.etag)

    def _put_thumbnail(self, image_etag: str) -> None:
        key, data = self._keys.thumbnail, self._encoded.thumbnail
        try:
            self._objects.put(key, data, _THUMBNAIL_LABEL, absent=True)
        except ConditionFailed:
            there = _existing(self._objects, key)
            if there.data == data:
                return
            if self._complete() is not None or self._objects.etag(self._keys.image) != image_etag:
                # The picture was completed, or our image replaced, so this thumbnail is another worker's.
                raise
            self._replaced.note(key, there.data)
            self._objects.put(key, data, _THUMBNAIL_LABEL, replacing=there.etag)

    def _put_manifest(self) -> dict[str, Any]:
        """Put the manifest where there is none, and return the one that is stored."""
        key, body = self._keys.manifest, dump_manifest(self._manifest)
        try:
            self._objects.put(key, body, _MANIFEST_LABEL, absent=True)
        except ConditionFailed:
            stored = _read(self._objects, key)
            if stored is None:
                raise
            if stored.content is not None:
                return stored.content
            # One that cannot be read marks nothing as complete.
            self._objects.put(key, body, _MANIFEST_LABEL, replacing=stored.etag)
        return self._manifest

    def _hold(self, stored: dict[str, Any], etag: str | None) -> None:
        """Make sure that the image is what the manifest describes, as far as this worker may have changed that."""
        image, thumbnail = self._keys.image, self._keys.thumbnail
        sha256 = stored["picture"]["sha256"]
        if sha256 == self._encoded.sha256:
            if etag is None or self._objects.etag(image) != etag:
                _restore(self._objects, image, self._encoded.data, self._image_label)
                _restore(self._objects, thumbnail, self._encoded.thumbnail, _THUMBNAIL_LABEL)
            return
        old = self._replaced.get(sha256)
        if old is not None:
            _restore(self._objects, image, old, self._image_label)
            self._replaced.forget(sha256)
        old = self._replaced.get(thumbnail)
        if old is not None:
            _restore(self._objects, thumbnail, old, _THUMBNAIL_LABEL)
            self._replaced.forget(thumbnail)

    def _complete(self) -> dict[str, Any] | None:
        return read_manifest(self._objects, self._manifest["girl_id"], self._manifest["job_id"], self._keys.manifest)


def _restore(objects: Objects, key: str, data: bytes, label: Label) -> None:
    """Put back what the manifest describes. Raises StoreUnavailable."""
    for _ in range(_TURNS):
        there = objects.get(key)
        if there is not None and there.data == data:
            return
        log.warning("object_restored", key=key)
        with suppress(ConditionFailed):
            if there is None:
                objects.put(key, data, label, absent=True)
            else:
                objects.put(key, data, label, replacing=there.etag)
    raise StoreUnavailable(_BUSY)


def _existing(objects: Objects, key: str) -> StoredObject:
    there = objects.get(key)
    if there is None:
        raise ConditionFailed(key)
    return there


def _read(objects: Objects, key: str) -> StoredManifest | None:
    there = objects.get(key)
    if there is None:
        return None
    try:
        return StoredManifest(load_manifest(there.data), there.etag)
    except ValueError as error:
        log.warning("manifest_unreadable", key=key, reason=str(error))
        return StoredManifest(None, there.etag)
