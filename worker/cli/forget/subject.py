"""Of whom or what everything is removed, and which objects belong to it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from worker.delivery.encode import EXTENSIONS
from worker.delivery.keys import CHECKPOINTS, MANIFESTS, PICTURES

PREFIXES = (PICTURES, CHECKPOINTS, MANIFESTS)
_IMAGE = "|".join(sorted({*EXTENSIONS.values()}))
# What stands behind the job id in a key, by prefix; version 1.0 put manifests beside the pictures.
_SUFFIX = {
    PICTURES: re.compile(rf"\.(?:{_IMAGE})|_thumb\.jpg|\.json"),
    MANIFESTS: re.compile(r"\.json"),
    CHECKPOINTS: re.compile(r"\.[0-9a-f]+\.safetensors"),
}


class Kind(StrEnum):
    """What is forgotten."""

    JOB = "job"
    GIRL = "girl"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A job, all jobs of a girl, or all jobs of a user.

    Args:
        girl_id: of the job, where it is given; the girl herself.
    """

    kind: Kind
    job_id: str | None = None
    girl_id: str | None = None
    user_id: int | None = None

    def takes(self, job_id: str, girl_id: str, user_id: int) -> bool:
        """Whether a job belongs to it."""
        if self.kind is Kind.USER:
            return user_id == self.user_id
        return (self.girl_id is None or girl_id == self.girl_id) and (self.job_id is None or job_id == self.job_id)

    def __str__(self) -> str:
        match self.kind:
            case Kind.JOB:
                return f"job {self.job_id}" + (f" of girl {self.girl_id}" if self.girl_id else "")
            case Kind.GIRL:
                return f"girl {self.girl_id}"
            case Kind.USER:
                return f"user {self.user_id}"


def belongs(key: str, job_id: str) -> bool:
    """Whether an object is one of a job's, whoever its girl is: `a.b.jpg` is of the job `a.b`, and not of `a`."""
    prefix, _, rest = key.partition("/")
    name = rest.rpartition("/")[2]
    suffix = _SUFFIX.get(prefix)
    return suffix is not None and name.startswith(job_id) and suffix.fullmatch(name[len(job_id) :]) is not None


def girl_of(key: str) -> str:
    """The girl in an object's key."""
    return key.split("/")[1]


def is_manifest(key: str) -> bool:
    """Whether an object is a manifest, here or where version 1.0 put it."""
    return key.endswith(".json") and key.startswith((f"{MANIFESTS}/", f"{PICTURES}/"))
