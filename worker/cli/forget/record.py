"""The record of having forgotten: an object below `forgotten/` that names nobody.

It holds digests of the job ids, which say of an id that somebody has whether it was forgotten, and by which `replay`
leaves such jobs out. Job ids are long and random where clients keep to the guide; ids of users and girls can be
guessed, so that there is no digest of them.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from worker.cli.forget.subject import Kind
from worker.delivery.picture_put import PRIVATE_CACHE
from worker.delivery.s3_listing import list_keys
from worker.delivery.s3_objects import Label, S3Objects

FORGOTTEN = "forgotten"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What one run did.

    Args:
        removed: objects by prefix, and statuses.
        complete: whether nothing is left that could be removed.
        reference: what the operator calls the case, such as a ticket's number.
    """

    kind: Kind
    at: datetime
    job_ids: frozenset[str]
    removed: Mapping[str, int]
    complete: bool
    reference: str | None = None

    def to_json(self) -> bytes:
        """The object's bytes."""
        record = {
            "record_version": VERSION,
            "forgotten_at": self.at.isoformat(timespec="seconds"),
            "selected_by": self.kind.value,
            "reference": self.reference,
            "complete": self.complete,
            "removed": dict(sorted(self.removed.items())),
            "job_digests": sorted(job_digest(job_id) for job_id in self.job_ids),
        }
        return (json.dumps(record, indent=2) + "\n").encode()


def job_digest(job_id: str) -> str:
    """SHA-256 of a job id."""
    return hashlib.sha256(job_id.encode()).hexdigest()


def put_record(objects: S3Objects, forgotten: Forgotten) -> str:
    """Write the record and return its key. Raises StoreUnavailable."""
    key = f"{FORGOTTEN}/{forgotten.at:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}.json"
    objects.put(key, forgotten.to_json(), Label("application/json", PRIVATE_CACHE))
    return key


def forgotten_digests(objects: S3Objects) -> frozenset[str]:
    """The digests of all jobs that were forgotten. Raises StoreUnavailable."""
    found: set[str] = set()
    for key in list_keys(objects, f"{FORGOTTEN}/"):
        there = objects.get(key)
        if there is not None:
            found.update(_digests(there.data))
    return frozenset(found)


def _digests(data: bytes) -> Iterable[str]:
    try:
        digests = json.loads(data)["job_digests"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return (digest for digest in digests if isinstance(digest, str)) if isinstance(digests, list) else ()
