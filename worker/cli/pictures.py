"""Save pictures and thumbnails to files: from S3 with the settings' credentials, else from their addresses."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.client.errors import CommandError
from worker.delivery.keys import object_keys
from worker.delivery.upload import PictureStore
from worker.settings import Settings

TIMEOUT_S = 30.0
# What a picture of the largest size as PNG may take, with room.
MAX_BYTES = 256 * 1024 * 1024


class Stored(Protocol):
    """What is told of a stored picture: a completed event, or what is made of a manifest."""

    @property
    def girl_id(self) -> str: ...
    @property
    def job_id(self) -> str: ...
    @property
    def output_format(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def image_url(self) -> str: ...
    @property
    def thumbnail_url(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a picture and its thumbnail were written to."""

    image: Path
    thumbnail: Path


class Saver:
    """Saves pictures to one folder, which is made if it is not there.

    Args:
        store: where they are read from; None: from their addresses, without credentials.
    """

    def __init__(self, folder: Path, store: PictureStore | None) -> None:
        self._folder = folder
        self._store = store

    @classmethod
    def from_settings(cls, folder: Path, settings: Settings) -> Saver:
        """Reads from S3 where AWS_S3_BUCKET is set. Raises BucketError: the bucket cannot be used."""
        if settings.aws_s3_bucket is None:
            return cls(folder, None)
        store = PictureStore.from_settings(settings)
        store.require_bucket()
        return cls(folder, store)

    def save(self, picture: Stored) -> Saved:
        """Write both files; the picture is what was announced, byte for byte.

        Raises:
            CommandError: it is not there any more, or is another one.
            OSError: it cannot be written.
            StoreUnavailable: S3 does not answer.
        """
        try:
            keys = object_keys(picture.girl_id, picture.job_id, str(picture.output_format))
        except ValueError as error:
            raise CommandError(f"{picture.job_id}: {error}") from None
        self._folder.mkdir(parents=True, exist_ok=True)
        image = self._read(keys.image, picture.image_url)
        if hashlib.sha256(image).hexdigest() != picture.sha256:
            raise CommandError(f"{picture.job_id}: the stored picture is not the one that was announced")
        thumbnail = self._read(keys.thumbnail, picture.thumbnail_url)
        return Saved(self._write(keys.image, image), self._write(keys.thumbnail, thumbnail))

    def _read(self, key: str, url: str) -> bytes:
        if self._store is None:
            return _download(url)
        data = self._store.fetch(key)
        if data is None:
            raise CommandError(f"there is no object {key}: was the picture removed?")
        return data

    def _write(self, key: str, data: bytes) -> Path:
        """Written beside and moved, so that nobody sees half a picture."""
        path = self._folder / key.rpartition("/")[2]
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        return path


def _download(url: str) -> bytes:
    if not url.startswith(("https://", "http://")):
        raise CommandError("the picture's address is no http URL: set AWS_S3_BUCKET and its credentials")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise CommandError(f"{_bare(url)} answers {error.code}: set AWS_S3_BUCKET and its credentials") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{_bare(url)} does not answer: {error}") from None
    if len(data) > MAX_BYTES:
        raise CommandError(f"{_bare(url)} sends more than {MAX_BYTES} bytes")
    return data


def _bare(url: str) -> str:
    """Without the signature, which is a key to the picture."""
    return url.partition("?")[0]
