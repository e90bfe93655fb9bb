"""Pictures into S3, and back: the manifest last, so that it marks a picture as complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as EndpointError

from worker.delivery.keys import Keys, object_keys
from worker.delivery.manifest import dump_manifest, load_manifest
from worker.errors import BucketError, StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from worker.delivery.encode import EncodedPicture
    from worker.settings import Settings

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
# The first try included. The caller waits and retries too, so botocore only bridges a blip.
ATTEMPTS = 3
# Probes of health run beside the uploads.
SPARE_CONNECTIONS = 4

CACHE_CONTROL = "public, max-age=31536000, immutable"

# Answers below 500 that pass: throttling, credentials in rotation, a clock being set, a body damaged on
# its way. A bucket that vanishes while we run is the operator's to restore; the jobs are not to blame.
_PASSING_STATUS = frozenset({401, 403, 408, 425, 429})
_PASSING_CODES = frozenset(
    {
        "BadDigest",
        "ExpiredToken",
        "IncompleteBody",
        "InvalidToken",
        "NoSuchBucket",
        "OperationAborted",
        "RequestTimeout",
        "TokenRefreshRequired",
        "XAmzContentSHA256Mismatch",
    }
)
_UNREACHABLE: tuple[type[BotoCoreError], ...] = (
    HTTPClientError,
    EndpointError,
    IncompleteReadError,
    NoCredentialsError,
    CredentialRetrievalError,
    MetadataRetrievalError,
)


class PictureStore:
    """One bucket of pictures. Thread-safe, as boto3's client is.

    The credentials need s3:PutObject, s3:GetObject and s3:ListBucket; without the last, S3 answers 403
    for an object that is not there.
    """

    def __init__(self, client: S3Client, bucket: str, public_url: str | None = None) -> None:
        self._client = client
        self._bucket = bucket
        self._base_url = public_url or _bucket_url(client.meta.endpoint_url, bucket)

    @classmethod
    def from_settings(cls, settings: Settings) -> PictureStore:
        """Connects to nothing yet; `require_bucket` does.

        Raises:
            BucketError: the endpoint is no URL, or a shared AWS profile is incomplete.
            SettingsError: AWS_S3_BUCKET is not set.
        """
        try:
            return cls(_client(settings), settings.bucket, settings.cloudfront_url)
        except (BotoCoreError, ValueError) as error:
            raise BucketError(f"the S3 client cannot be made: {error}") from error

    def require_bucket(self) -> None:
        """Look at the bucket once, at the start.

        Raises:
            BucketError: no or refused credentials, no such bucket, no answer; it says what to change.
        """
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise BucketError(
                "no S3 credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or give the machine a role"
            ) from error
        except BotoCoreError as error:
            where = self._client.meta.endpoint_url
            raise BucketError(
                f"S3 does not answer at {where} ({type(error).__name__}): check AWS_ENDPOINT_URL_S3 and AWS_REGION"
            ) from error
        except ClientError as error:
            raise BucketError(_refusal(_status(error), self._bucket)) from error

    def healthy(self) -> bool:
        """Whether the bucket answers now: one HEAD, for readiness and for the wait after StoreUnavailable."""
        try:
            with _passing_errors():
                self._client.head_bucket(Bucket=self._bucket)
        except (StoreUnavailable, ClientError):
            return False
        return True

    def put_picture(self, keys: Keys, encoded: EncodedPicture, manifest: dict[str, Any]) -> None:
        """Store image, thumbnail, then manifest. Safe to repeat: the same objects are written again.

        Raises:
            StoreUnavailable: wait, and call again with the same arguments.
        """
        self._put(keys.image, encoded.data, encoded.content_type)
        self._put(keys.thumbnail, encoded.thumbnail, "image/jpeg")
        self._put(keys.manifest, dump_manifest(manifest), "application/json")

    def put_checkpoint(self, key: str, data: bytes) -> None:
        """Store what is left of a job that was released. Raises StoreUnavailable."""
        self._put(key, data, "application/octet-stream", cache="no-store")

    def fetch_manifest(self, girl_id: str, job_id: str) -> dict[str, Any] | None:
        """The manifest of a complete picture, or None: not made yet, or cut short, or not one of ours.

        Raises:
            StoreUnavailable: nobody knows; wait and ask again.
            ValueError: for ids that are none.
        """
        key = object_keys(girl_id, job_id, "jpeg").manifest
        data = self.fetch(key)
        if data is None:
            return None
        try:
            return load_manifest(data)
        except ValueError as error:
            log.warning("manifest_unreadable", key=key, reason=str(error))
            return None

    def fetch(self, key: str) -> bytes | None:
        """An object's bytes, or None where there is none.

        Raises:
            StoreUnavailable: wait and ask again.
        """
        with _passing_errors():
            try:
                return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            except self._client.exceptions.NoSuchKey:
                return None

    def url(self, key: str) -> str:
        """Where a browser finds an object: under `CLOUDFRONT_URL`, else at the bucket itself."""
        return f"{self._base_url}/{quote(key)}"

    def _put(self, key: str, body: bytes, content_type: str, cache: str = CACHE_CONTROL) -> None:
        with _passing_errors():
            self._client.put_object(
                Bucket=self._bucket, Key=key, Body=body, ContentType=content_type, CacheControl=cache
            )


def _client(settings: Settings) -> S3Client:
    key, secret = settings.aws_access_key_id, settings.aws_secret_access_key
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=settings.upload_threads + SPARE_CONNECTIONS,
        tcp_keepalive=True,
        # Some S3-compatible stores refuse botocore's trailing checksums; the signature covers the body.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if settings.aws_endpoint_url_s3 else "auto"},
    )
    return boto3.session.Session().client(
        "s3",
        region_name=settings.aws_region,
        endpoint_url=settings.aws_endpoint_url_s3,
        aws_access_key_id=key.get_secret_value() if key else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=config,
    )


def _bucket_url(endpoint: str, bucket: str) -> str:
    scheme, host = urlsplit(endpoint)[:2]
    is_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    # The certificate's wildcard covers one label, so a dotted bucket has to stay in the path.
    if is_aws and "." not in bucket:
        return f"{scheme}://{bucket}.{host}"
    return f"{endpoint.rstrip('/')}/{quote(bucket)}"


@contextmanager
def _passing_errors() -> Iterator[None]:
    try:
        yield
    except _UNREACHABLE as error:
        raise StoreUnavailable(f"S3 does not answer ({type(error).__name__})") from error
    except ClientError as error:
        if not _passes(error):
            raise
        code = error.response.get("Error", {}).get("Code", "no code")
        raise StoreUnavailable(f"S3 refused {error.operation_name}: {code} ({_status(error)})") from error


def _passes(error: ClientError) -> bool:
    status = _status(error)
    code = error.response.get("Error", {}).get("Code", "")
    throttled = "Throttl" in code or "SlowDown" in code
    return status >= 500 or status in _PASSING_STATUS or code in _PASSING_CODES or throttled


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _refusal(status: int, bucket: str) -> str:
    match status:
        case 404:
            return f"the bucket {bucket!r} does not exist: create it, or set AWS_S3_BUCKET"
        case 400 | 401 | 403:
            return (
                f"S3 refuses these credentials for the bucket {bucket!r} ({status}): check "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy (PutObject, GetObject, ListBucket)"
            )
        case 301 | 307:
            return f"the bucket {bucket!r} is in another region: set AWS_REGION"
        case _:
            return f"S3 answers {status} for the bucket {bucket!r}: try again once it is well"
