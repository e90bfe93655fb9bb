"""Objects of one bucket: read, look at, and put on a condition, with every answer translated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from worker.delivery.s3_errors import ConditionFailed, Refused, translated
from worker.errors import StoreUnavailable
from worker.telemetry import metrics

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from worker.delivery.s3_credentials import ReloadedCredentials

log = structlog.get_logger(__name__)

T = TypeVar("T")

# How stores answer that know no conditional puts.
_UNSUPPORTED = frozenset({"NotImplemented", "501", "InvalidArgument", "InvalidRequest", "InvalidHeader"})


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The bytes of an object and their version."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Label:
    """What an object says of itself to those who read it."""

    content_type: str
    cache_control: str


class Objects(Protocol):
    """What `store_picture` needs of a bucket; the simulation has its own. Every method may raise StoreUnavailable."""

    def get(self, key: str) -> StoredObject | None:
        """An object; None where there is none."""

    def etag(self, key: str) -> str | None:
        """An object's version; None where there is none."""

    def put(self, key: str, body: bytes, label: Label, *, absent: bool = False, replacing: str | None = None) -> str:
        """Write an object and return its version.

        Args:
            absent: only where there is none yet.
            replacing: only in place of this version.

        Raises:
            ConditionFailed: nothing was written, since the condition does not hold.
        """


def access_check_key(prefix: str) -> str:
    """The object that shows what these credentials may do below `prefix`; no id can begin with a dot."""
    return f"{prefix}/.sdxl-worker/access-check"


class S3Objects:
    """The bucket behind one boto3 client. Thread-safe, as the client is.

    Args:
        credentials: are read again when S3 refuses them.
        waiting: is entered while S3 is waited for.

    Attributes:
        may_list: whether these credentials may list the bucket. To those that may not, S3 says 403 where there is no
            object.
        conditional: whether the store knows conditional puts.
        bucket: its name.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        credentials: ReloadedCredentials | None = None,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.client = client
        self.may_list = True
        self.conditional = True
        self.bucket = bucket
        self._credentials = credentials
        self._waiting = waiting

    def get(self, key: str) -> StoredObject | None:
        """An object; None where there is none.

        Raises:
            StoreUnavailable: nobody knows; wait and ask again.
        """
        try:
            return self._get(key)
        except Refused as refused:
            if refused.is_missing_key or (refused.is_forbidden and self._hides_missing(key)):
                return None
            raise

    def etag(self, key: str) -> str | None:
        """An object's version; None where there is none. Raises StoreUnavailable."""
        try:
            answer = self.call("head", lambda: self.client.head_object(Bucket=self.bucket, Key=key))
        except Refused as refused:
            # The answer to a HEAD has no body, so only a GET says what a 403 or 404 means.
            if refused.status not in {403, 404}:
                raise
            there = self.get(key)
            return None if there is None else there.etag
        return str(answer["ETag"])

    def put(self, key: str, body: bytes, label: Label, *, absent: bool = False, replacing: str | None = None) -> str:
        """Write an object and return its version.

        Where the store knows no conditions, the object is looked at just before.

        Raises:
            ConditionFailed: the object is there already (`absent`), or is not the expected version (`replacing`).
            RequestRejected: the object can never be stored.
            StoreUnavailable: wait, and put it again.
        """
        if not (absent or replacing):
            return self._put(key, body, label)
        if self.conditional:
            try:
                return self._put(key, body, label, **({"IfNoneMatch": "*"} if absent else {"IfMatch": replacing}))
            except Refused as refused:
                if refused.is_failed_condition:
                    raise ConditionFailed(key) from refused
                if refused.code not in _UNSUPPORTED:
                    raise
        now = self.etag(key)
        if (now is not None) if absent else (now != replacing):
            raise ConditionFailed(key)
        etag = self._put(key, body, label)
        # Only now is it certain that the condition was what the store refused.
        self.without_conditions()
        return etag

    def without_conditions(self) -> None:
        """Put no conditions any more, since the store does not know them."""
        if self.conditional:
            self.conditional = False
            log.warning("conditional_puts_unsupported", bucket=self.bucket)

    def presigned_url(self, key: str, lifetime_s: int) -> str:
        """An address at which anybody can read the object for a while, or for as long as the credentials live.

        Raises:
            StoreUnavailable: there are no credentials now.
        """
        with translated():
            return self.client.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=lifetime_s
            )

    def head_bucket(self) -> str | None:
        """Ask for the bucket; return the region that it says it is in. Raises Refused, StoreUnavailable."""
        answer = self.call("head", lambda: self.client.head_bucket(Bucket=self.bucket))
        return answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")

    def _get(self, key: str) -> StoredObject:
        def get() -> StoredObject:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
            return StoredObject(answer["Body"].read(), answer.get("ETag", ""))

        return self.call("get", get)

    def _put(self, key: str, body: bytes, label: Label, **condition: Any) -> str:
        def put() -> str:
            answer = self.client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=body,
                ContentType=label.content_type,
                CacheControl=label.cache_control,
                **condition,
            )
            return answer.get("ETag", "")

        return self.call("put", put)

    def _hides_missing(self, key: str) -> bool:
        """Whether a 403 for `key` says that there is no object.

        It does where listing is not allowed, and an object that certainly exists below the same prefix can be read.
        """
        if self.may_list:
            try:
                self.head_bucket()
            except Refused as refused:
                if not refused.is_forbidden:
                    return False
                self.may_list = False
            else:
                return False
        try:
            self._get(access_check_key(key.partition("/")[0]))
        except StoreUnavailable:
            return False
        return True

    def call(self, operation: str, call: Callable[[], T]) -> T:
        """What boto3's `call` returns; with new credentials, where the old ones are refused and there are others.

        Raises:
            RequestRejected, StoreUnavailable: what S3's answer means.
        """
        with self._waiting(), metrics.STORE_REQUEST.labels(operation).time():
            try:
                with translated():
                    return call()
            except Refused as refused:
                if not (refused.may_be_rotated and self._credentials_changed()):
                    raise
            with translated():
                return call()

    def _credentials_changed(self) -> bool:
        with translated():
            return self._credentials is not None and self._credentials.reload()
