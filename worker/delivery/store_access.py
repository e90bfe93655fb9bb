"""What has to be right about the bucket before the first job: certain mistakes are told apart from outages."""

from __future__ import annotations

import structlog
from botocore.exceptions import NoCredentialsError, ParamValidationError, PartialCredentialsError

from worker.delivery.keys import MANIFESTS, PICTURES
from worker.delivery.s3_errors import ConditionFailed, Refused
from worker.delivery.s3_objects import Label, S3Objects, access_check_key
from worker.errors import BucketError, StoreUnavailable

log = structlog.get_logger(__name__)

_BODY = b"sdxl-worker puts this object here when it starts, to see whether it may write and read.\n"
_LABEL = Label("text/plain", "no-store")


def check_bucket(objects: S3Objects, bucket: str) -> str | None:
    """Look at the bucket, and find out whether it may be listed.

    Returns:
        The bucket's region, where the store says it.

    Raises:
        BucketError: the bucket does not exist, its name is none, or there are no credentials at all.
        StoreUnavailable: S3 does not answer, or refuses for reasons that may pass.
    """
    try:
        objects.may_list = True
        return objects.head_bucket()
    except ParamValidationError as error:
        raise BucketError(f"AWS_S3_BUCKET: {bucket!r} is not a bucket's name") from error
    except Refused as refused:
        # A HEAD tells only the status. Those who may not list get a 403 for a bucket that they may well write to.
        if refused.status not in {400, 403, 404}:
            raise
        objects.may_list = not refused.is_forbidden
        _ask_for_an_object(objects, bucket)
        return refused.region
    except StoreUnavailable as error:
        if isinstance(error.__cause__, NoCredentialsError | PartialCredentialsError):
            raise BucketError(
                "no S3 credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or give the machine a role"
            ) from error
        raise


def check_rights(objects: S3Objects) -> None:
    """Write and read a small object below each prefix, and find out whether the store knows conditional puts.

    Raises:
        BucketError: as `check_bucket`.
        StoreUnavailable: a right is missing; the message names it.
    """
    for prefix in (PICTURES, MANIFESTS):
        key = access_check_key(prefix)
        try:
            objects.put(key, _BODY, _LABEL)
        except Refused as refused:
            raise _named(refused, f"s3:PutObject on {prefix}/*") from refused
        try:
            there = objects.get(key)
        except Refused as refused:
            raise _named(refused, f"s3:GetObject on {prefix}/*") from refused
        if there is None:
            raise StoreUnavailable(f"S3 does not return {key}, which it has just taken")
    _check_conditions(objects, access_check_key(MANIFESTS))


def _ask_for_an_object(objects: S3Objects, bucket: str) -> None:
    """A GET has an error code in its answer, which says what the bucket's status means."""
    try:
        objects.get(access_check_key(MANIFESTS))
    except Refused as refused:
        if refused.code == "NoSuchBucket":
            raise BucketError(f"the bucket {bucket!r} does not exist: create it, or set AWS_S3_BUCKET") from refused
        if refused.code == "InvalidBucketName":
            raise BucketError(f"AWS_S3_BUCKET: {bucket!r} is not a bucket's name") from refused
        if not refused.is_forbidden:
            raise
        # Nothing is there yet, or it may not be read; writing it shows which.


def _check_conditions(objects: S3Objects, existing: str) -> None:
    try:
        objects.put(existing, _BODY, _LABEL, absent=True)
    except ConditionFailed:
        return
    # Written although it was there: the store ignores the condition. One that refuses it is noticed by `put`.
    objects.without_conditions()


def _named(refused: Refused, right: str) -> StoreUnavailable:
    return StoreUnavailable(f"{refused}: the credentials need {right}" if refused.is_forbidden else str(refused))
