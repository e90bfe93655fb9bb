"""Find and delete a subject's objects.

Manifests go last, and in calls of their own: they say whose a picture is, so that a run that was cut short can be
repeated. No listing is kept, only the jobs of the subject.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from worker.cli.forget.subject import PREFIXES, Kind, Subject, belongs, girl_of, is_manifest
from worker.delivery.keys import CHECKPOINTS, MANIFESTS, PICTURES
from worker.delivery.s3_listing import delete_keys, list_keys
from worker.delivery.s3_objects import S3Objects
from worker.job import SAFE_NAME

# Manifests that are read at a time, and how many of them at once.
_PAGE = 500
_THREADS = 8


@dataclass(slots=True)
class Found:
    """What the bucket holds of a subject.

    Args:
        jobs: as (girl_id, job_id); of a girl, all that lies below her prefix counts as well.
        unread: manifests that are none, so that nobody knows whose they are.
    """

    jobs: set[tuple[str, str]] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)


def find_jobs(objects: S3Objects, subject: Subject) -> Found:
    """The subject's jobs, as far as the bucket tells; for a girl, who is a prefix, there is nothing to look for.

    Raises:
        StoreUnavailable: S3 does not answer, or a right is missing.
    """
    found = Found()
    if subject.kind is Kind.JOB and subject.girl_id is None:
        assert subject.job_id is not None
        for prefix in PREFIXES:
            keys = (key for key in list_keys(objects, f"{prefix}/") if belongs(key, subject.job_id))
            found.jobs.update((girl_of(key), subject.job_id) for key in keys)
    elif subject.kind is Kind.JOB:
        found.jobs.add((str(subject.girl_id), str(subject.job_id)))
    elif subject.kind is Kind.USER:
        _read_manifests(objects, subject, found)
    return found


def count_objects(objects: S3Objects, subject: Subject, jobs: Iterable[tuple[str, str]]) -> Counter[str]:
    """How many objects there are, by the first part of their keys."""
    return Counter(
        key.partition("/")[0] for manifests in (False, True) for key in _keys(objects, subject, jobs, manifests)
    )


def delete_objects(objects: S3Objects, subject: Subject, jobs: Iterable[tuple[str, str]]) -> Counter[str]:
    """Delete them, and return how many, by the first part of their keys.

    Raises:
        StoreUnavailable: not all were deleted; call it again.
    """
    counts: Counter[str] = Counter()

    def counted(keys: Iterable[str]) -> Iterator[str]:
        for key in keys:
            counts[key.partition("/")[0]] += 1
            yield key

    jobs = sorted(jobs)
    for manifests in (False, True):
        delete_keys(objects, counted(_keys(objects, subject, jobs, manifests)))
    return counts


def _keys(objects: S3Objects, subject: Subject, jobs: Iterable[tuple[str, str]], manifests: bool) -> Iterator[str]:
    """The manifests or the other objects of a subject."""
    prefixes = (MANIFESTS, PICTURES) if manifests else (PICTURES, CHECKPOINTS)
    if subject.kind is Kind.GIRL:
        for prefix in prefixes:
            keys = list_keys(objects, f"{prefix}/{subject.girl_id}/")
            yield from (key for key in keys if is_manifest(key) == manifests)
        return
    for girl_id, job_id in jobs:
        for prefix in prefixes:
            keys = list_keys(objects, f"{prefix}/{girl_id}/{job_id}")
            yield from (key for key in keys if belongs(key, job_id) and is_manifest(key) == manifests)


def _read_manifests(objects: S3Objects, subject: Subject, found: Found) -> None:
    listed = (key for prefix in (MANIFESTS, PICTURES) for key in list_keys(objects, f"{prefix}/") if is_manifest(key))
    with ThreadPoolExecutor(_THREADS) as pool:
        while page := list(islice(listed, _PAGE)):
            for key, owner in zip(page, pool.map(lambda key: _owner(objects, key), page), strict=True):
                if owner is None:
                    found.unread.append(key)
                elif subject.takes(*owner) and SAFE_NAME.fullmatch(owner[0]) and SAFE_NAME.fullmatch(owner[1]):
                    found.jobs.add((owner[1], owner[0]))


def _owner(objects: S3Objects, key: str) -> tuple[str, str, int] | None:
    """The job id, girl id and user id in a manifest; None where they cannot be read.

    Less is asked of it than of one that a picture is announced by: what is damaged or of another version is someone's.
    """
    there = objects.get(key)
    if there is None:
        return "", "", -1
    try:
        manifest = json.loads(there.data)
        user_id = manifest["user_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    # The key says where it lies, whatever the manifest says.
    name = key.rpartition("/")[2].removesuffix(".json")
    return (name, girl_of(key), user_id) if isinstance(user_id, int) else None
