"""Listing and deleting objects, for people's commands: a worker does neither and needs no right to.

A listing is read page by page, so that a bucket of any size takes the memory of one page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from worker.delivery.s3_errors import Refused
from worker.delivery.s3_objects import S3Objects
from worker.errors import StoreUnavailable

# What one call deletes at most.
_BATCH = 1_000


def list_keys(objects: S3Objects, prefix: str) -> Iterator[str]:
    """The keys that begin with `prefix`, in their order. Raises StoreUnavailable."""
    for page in _pages(objects, Prefix=prefix):
        yield from (item["Key"] for item in page.get("Contents", []))


def list_folders(objects: S3Objects, prefix: str) -> Iterator[str]:
    """The names of the folders directly below `prefix`, which ends with a slash. Raises StoreUnavailable."""
    for page in _pages(objects, Prefix=prefix, Delimiter="/"):
        yield from (item["Prefix"][len(prefix) : -1] for item in page.get("CommonPrefixes", []))


def delete_keys(objects: S3Objects, keys: Iterable[str]) -> int:
    """Delete objects, and return how many. One that is not there counts as deleted.

    Raises:
        StoreUnavailable: not all were deleted; the message says which right is missing.
    """
    iterator, count = iter(keys), 0
    while batch := list(islice(iterator, _BATCH)):
        _delete(objects, batch)
        count += len(batch)
    return count


def is_versioned(objects: S3Objects) -> bool | None:
    """Whether the bucket keeps deleted objects as older versions; None where that may not be asked."""
    try:
        answer = objects.call("versioning", lambda: objects.client.get_bucket_versioning(Bucket=objects.bucket))
    except StoreUnavailable:
        return None
    return answer.get("Status") in ("Enabled", "Suspended")


def _pages(objects: S3Objects, **asked: Any) -> Iterator[Any]:
    while True:
        try:
            page = objects.call("list", partial(objects.client.list_objects_v2, Bucket=objects.bucket, **asked))
        except Refused as refused:
            if refused.is_forbidden:
                raise StoreUnavailable(f"{refused}: the credentials need s3:ListBucket") from refused
            raise
        yield page
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _delete(objects: S3Objects, keys: Sequence[str]) -> None:
    asked: Any = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
    try:
        answer = objects.call("delete", lambda: objects.client.delete_objects(Bucket=objects.bucket, Delete=asked))
    except Refused as refused:
        if refused.is_forbidden:
            raise StoreUnavailable(f"{refused}: the credentials need s3:DeleteObject") from refused
        raise
    errors = answer.get("Errors", [])
    if errors:
        raise StoreUnavailable(
            f"S3 did not delete {len(errors)} of {len(keys)} objects, the first for {errors[0].get('Code')}: "
            "the credentials need s3:DeleteObject"
        )
