"""Settings of the bucket, its credentials, and the URLs of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from worker import settings_checks as checks
from worker.errors import SettingsError
from worker.settings.section import Section


class S3Settings(Section):
    """Where pictures are stored, with which credentials, and how their URLs are signed."""

    aws_s3_bucket: str | None = Field(None, description="bucket for pictures, manifests and checkpoints; required")
    aws_region: str = Field("us-east-1", description="region of the bucket", pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$")
    aws_access_key_id: SecretStr | None = Field(
        None, description="access key; when unset, boto3 looks for credentials by itself"
    )
    aws_secret_access_key: SecretStr | None = Field(None, description="secret key that belongs to the access key")
    aws_session_token: SecretStr | None = Field(None, description="session token of temporary credentials")
    aws_endpoint_url_s3: str | None = Field(None, description="address of an S3-compatible store; not needed for AWS")
    cloudfront_url: str | None = Field(
        None,
        description="start of the picture URLs, https:// unless it names another scheme; when unset, "
        "the bucket's own address",
    )
    url_signing: Literal["none", "cloudfront", "s3"] = Field(
        "none",
        description="picture URLs in events: `none`, plain; `cloudfront`, signed with the key pair below; `s3`, "
        "presigned with the worker's own S3 credentials",
    )
    url_lifetime_s: int = Field(
        86_400,
        ge=60,
        le=10 * 366 * 86_400,
        description="seconds for which a signed URL can be used; with `s3` at most 604800, and never longer than the "
        "credentials",
    )
    cloudfront_key_pair_id: str | None = Field(
        None, description="id of the CloudFront public key", pattern=r"^[A-Za-z0-9]{1,64}$"
    )
    cloudfront_private_key_path: Path | None = Field(
        None, description="file of the private key that belongs to it, PEM without a passphrase"
    )

    @field_validator("url_signing", mode="before")
    @classmethod
    def _url_signing_in_any_case(cls, value: Any) -> Any:
        return checks.in_any_case(value)

    @field_validator("aws_s3_bucket")
    @classmethod
    def _is_bucket(cls, value: str | None) -> str | None:
        return None if value is None else checks.bucket(value)

    @field_validator("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    @classmethod
    def _is_credential(cls, value: SecretStr | None) -> SecretStr | None:
        return checks.credential(value)

    @field_validator("cloudfront_url", "aws_endpoint_url_s3")
    @classmethod
    def _no_trailing_slash(cls, value: str | None) -> str | None:
        return checks.no_trailing_slash(value)

    @field_validator("cloudfront_url")
    @classmethod
    def _has_scheme(cls, value: str | None) -> str | None:
        return value if value is None or "://" in value else f"https://{value}"

    @field_validator("cloudfront_url", "aws_endpoint_url_s3")
    @classmethod
    def _is_store_url(cls, value: str | None) -> str | None:
        return None if value is None else checks.http_url(value)

    @model_validator(mode="after")
    def _s3_is_consistent(self) -> Self:
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise ValueError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: set both or neither")
        checks.url_signing(
            self.url_signing,
            self.url_lifetime_s,
            cloudfront_url=self.cloudfront_url,
            key_given=(self.cloudfront_key_pair_id is not None, self.cloudfront_private_key_path is not None),
        )
        return self

    @property
    def bucket(self) -> str:
        """The bucket for pictures. Raises SettingsError: none is set, and no name could be a default for everybody."""
        if self.aws_s3_bucket is None:
            raise SettingsError("AWS_S3_BUCKET is not set: it names the bucket for pictures")
        return self.aws_s3_bucket
