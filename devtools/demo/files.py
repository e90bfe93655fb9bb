"""The files that the demo writes to its folder: pictures, `events.jsonl` and the page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from worker.cli.decode import to_json
from worker.client.connection import Record
from worker.delivery.keys import MANIFESTS
from worker.delivery.keys import PICTURES as PICTURES_PREFIX
from worker.events.types import Event, GenerationCompleted

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PICTURES, EVENTS, PAGE, LOG = "pictures", "events.jsonl", "index.html", "worker.log"
_OURS = ("*.jpg", "*.webp", "*.png", "*.json")


def clear(out: Path) -> None:
    """Create the folder, and remove only the files of an earlier demo from it."""
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    for name in (EVENTS, PAGE, LOG):
        (out / name).unlink(missing_ok=True)
    for pattern in _OURS:
        for file in (out / PICTURES).glob(pattern):
            file.unlink()


def write_events(path: Path, records: Iterable[tuple[Record, Event | None]]) -> None:
    """Write every record of the result topics as one JSON object per line, in the order in which they were read."""
    with path.open("w", encoding="utf-8") as lines:
        for record, event in records:
            lines.write(json.dumps(_object(record, event), ensure_ascii=False) + "\n")


def _object(record: Record, event: Event | None) -> dict[str, object]:
    headers = {name: _text(value) for name, value in record.headers or ()}
    value = {"value": _text(record.value)} if event is None else {"event": json.loads(to_json(event))}
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    return place | {"timestamp_ms": record.timestamp_ms, "key": _text(record.key), "headers": headers} | value


def _text(value: bytes | str | None) -> str | None:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def fetch_pictures(client: S3Client, bucket: str, events: Iterable[GenerationCompleted], folder: Path) -> list[str]:
    """Download each event's picture, thumbnail and manifest; return the keys that the store does not have."""
    missing = []
    for event in events:
        for url in (event.image_url, event.thumbnail_url, event.manifest_url):
            key = object_key(url)
            try:
                client.download_file(bucket, key, str(folder / file_name(url)))
            except (BotoCoreError, ClientError):
                missing.append(key)
    return missing


def object_key(url: str) -> str:
    """Return the key in the bucket: the part of a URL's path that starts with the prefix of pictures or manifests."""
    path = unquote(urlsplit(url).path)
    found = [path.find(f"/{prefix}/") for prefix in (PICTURES_PREFIX, MANIFESTS)]
    return path[min(at for at in found if at >= 0) + 1 :]


def file_name(url: str) -> str:
    """Return the name of a picture's file next to the page."""
    return Path(object_key(url)).name
