"""Where a picture's objects lie in the bucket. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from worker.delivery.encode import EXTENSIONS
from worker.job import SAFE_NAME

# What a browser may see, what it may not, and what another worker goes on from.
PICTURES, MANIFESTS, CHECKPOINTS = "generated", "manifests", "checkpoints"
_THUMBNAIL_SUFFIX = "_thumb"


def checkpoint_key(girl_id: str, job_id: str, digest: str) -> str:
    """Where the latents of a job that was released lie; `digest` is of all that decides its pixels.

    Raises:
        ValueError: an id that could leave its folder.
    """
    _check_ids(girl_id, job_id)
    return f"{CHECKPOINTS}/{girl_id}/{job_id}.{digest}.safetensors"


@dataclass(frozen=True, slots=True)
class Keys:
    """The object keys of one picture. The manifest is private, so it lies below a prefix of its own."""

    image: str
    thumbnail: str
    manifest: str


def object_keys(girl_id: str, job_id: str, output_format: str) -> Keys:
    """Where a picture's three objects lie.

    Raises:
        ValueError: an id that could leave its folder or overwrite another picture, or an unknown format.
            Admission has refused both before; this is the second lock.
    """
    _check_ids(girl_id, job_id)
    if job_id.endswith(_THUMBNAIL_SUFFIX):
        raise ValueError(f"job_id ends in {_THUMBNAIL_SUFFIX}: it would overwrite another job's thumbnail")
    if output_format not in EXTENSIONS:
        raise ValueError(f"output_format {output_format!r} is not one of {', '.join(EXTENSIONS)}")
    stem = f"{PICTURES}/{girl_id}/{job_id}"
    return Keys(
        image=f"{stem}.{EXTENSIONS[output_format]}",
        thumbnail=f"{stem}{_THUMBNAIL_SUFFIX}.jpg",
        manifest=f"{MANIFESTS}/{girl_id}/{job_id}.json",
    )


def legacy_manifest_key(girl_id: str, job_id: str) -> str:
    """Where version 1.0 put the manifest: beside the picture, for everyone to read.

    Raises:
        ValueError: as `object_keys`.
    """
    _check_ids(girl_id, job_id)
    return f"{PICTURES}/{girl_id}/{job_id}.json"


def _check_ids(girl_id: str, job_id: str) -> None:
    for name, value in (("girl_id", girl_id), ("job_id", job_id)):
        if not SAFE_NAME.fullmatch(value):
            raise ValueError(f"{name} is not 1 to 128 of A-Z a-z 0-9 . _ - without a leading dot")
