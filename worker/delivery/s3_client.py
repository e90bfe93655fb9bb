"""The boto3 client, by the settings, and the address of a bucket."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials

from worker.delivery.s3_credentials import StaticProvider

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from worker.settings import Settings

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
# The first try included. The caller waits and retries too, so botocore only bridges a blip.
ATTEMPTS = 2
# The start's checks and probes run beside the uploads.
SPARE_CONNECTIONS = 4
_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


def make_client(settings: Settings, credentials: Credentials, region: str | None = None) -> S3Client:
    """A client that connects to nothing yet.

    Args:
        region: in place of the settings' one.

    Raises:
        BotoCoreError, ValueError: the endpoint is no URL, or a shared AWS profile is wrong.
    """
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=settings.upload_threads + SPARE_CONNECTIONS,
        tcp_keepalive=True,
        # Presigned URLs are of the old version otherwise, which most regions and stores refuse.
        signature_version="s3v4",
        # Some S3-compatible stores refuse botocore's trailing checksums; the signature covers the body.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": _addressing(settings)},
    )
    core = botocore.session.Session()
    core.get_component("credential_provider").providers.insert(0, StaticProvider(credentials))
    return boto3.session.Session(botocore_session=core).client(
        "s3",
        region_name=region or settings.aws_region,
        endpoint_url=settings.aws_endpoint_url_s3,
        config=config,
    )


def _addressing(settings: Settings) -> Literal["path", "virtual", "auto"]:
    """How requests name the bucket. With `auto`, presigned URLs name the global host, which redirects (tried)."""
    if settings.aws_endpoint_url_s3:
        return "path"
    return "virtual" if _HOST_LABEL.fullmatch(settings.aws_s3_bucket or "") else "auto"


def bucket_url(endpoint: str, bucket: str) -> str:
    """Where a browser finds a bucket: a host name of its own at AWS, a folder elsewhere."""
    scheme, host = urlsplit(endpoint)[:2]
    is_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    # The certificate's wildcard covers one label, so a dotted bucket has to stay in the path.
    if is_aws and "." not in bucket:
        return f"{scheme}://{bucket}.{host}"
    return f"{endpoint.rstrip('/')}/{quote(bucket)}"
