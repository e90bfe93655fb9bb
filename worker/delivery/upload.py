"""The store of pictures: one bucket, its objects, its addresses, and what has to be right about it at the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from botocore.exceptions import BotoCoreError

from worker.delivery.keys import MANIFESTS, PICTURES, Keys, object_keys
from worker.delivery.picture_put import Replaced, read_manifest, store_picture
from worker.delivery.s3_client import bucket_url, make_client
from worker.delivery.s3_credentials import ReloadedCredentials, load_credentials
from worker.delivery.s3_listing import list_folders
from worker.delivery.s3_objects import Label, S3Objects
from worker.delivery.store_access import check_bucket, check_rights
from worker.errors import BucketError, StoreUnavailable
from worker.job import SAFE_NAME
from worker.settings import secrets_dir

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from worker.delivery.encode import EncodedPicture
    from worker.delivery.signed_urls import Sign
    from worker.settings import Settings

_CHECKPOINT_LABEL = Label("application/octet-stream", "no-store")


class PictureStore:
    """One bucket of pictures. Thread-safe.

    The credentials need s3:PutObject and s3:GetObject below the prefixes in `keys`. Without s3:ListBucket, S3 answers
    403 for an object that is not there, and a second request finds out what that means.
    """

    def __init__(
        self,
        objects: S3Objects,
        bucket: str,
        public_url: str | None = None,
        *,
        sign: Sign | None = None,
        presigned_s: int | None = None,
    ) -> None:
        self._objects = objects
        self._bucket = bucket
        self._public_url = public_url
        self._sign = sign
        self._presigned_s = presigned_s
        self._replaced = Replaced()
        self._client_in: Callable[[str], S3Client] | None = None

    @classmethod
    def from_settings(
        cls, settings: Settings, waiting: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> PictureStore:
        """Connects to nothing yet; `check` and `require_bucket` do.

        Args:
            waiting: is entered while S3 is waited for.

        Raises:
            BucketError: the endpoint is no URL, or a shared AWS profile is wrong.
            SettingsError: AWS_S3_BUCKET is not set, or CLOUDFRONT_PRIVATE_KEY_PATH holds no key.
        """
        credentials = ReloadedCredentials(load_credentials(settings, secrets_dir()))
        try:
            client = make_client(settings, credentials)
        except (BotoCoreError, ValueError) as error:
            raise BucketError(f"the S3 client cannot be made: {error}") from error
        objects = S3Objects(client, settings.bucket, credentials, waiting)
        store = cls(
            objects,
            settings.bucket,
            settings.cloudfront_url,
            sign=_cloudfront_signer(settings),
            presigned_s=settings.url_lifetime_s if settings.url_signing == "s3" else None,
        )
        if settings.aws_endpoint_url_s3 is None:
            store._client_in = lambda region: make_client(settings, credentials, region)
        return store

    def require_bucket(self) -> None:
        """Look at the bucket once, for a command that a person waits for; nothing is written.

        Raises:
            BucketError: it cannot be used now; the message says why.
        """
        try:
            self._follow(check_bucket(self._objects, self._bucket))
        except StoreUnavailable as error:
            where = self._objects.client.meta.endpoint_url
            raise BucketError(
                f"{error}, bucket {self._bucket!r} at {where}: check AWS_ENDPOINT_URL_S3, AWS_REGION, "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy"
            ) from error

    def check(self) -> None:
        """Find out, at the start, whether the bucket is there and whether these credentials may use it.

        Raises:
            BucketError: a setting is certainly wrong; the message says which.
            StoreUnavailable: it may be right later; wait, and check again.
        """
        self._follow(check_bucket(self._objects, self._bucket))
        check_rights(self._objects)

    def put_picture(self, keys: Keys, encoded: EncodedPicture, manifest: dict[str, Any]) -> dict[str, Any]:
        """Store image, thumbnail, then manifest. Safe to repeat, and harmless to a picture that is complete.

        Returns:
            The manifest that is stored now: `manifest`, or that of the picture that was complete already.

        Raises:
            RequestRejected: `internal`, the store will never take an object of this picture.
            StoreUnavailable: wait, and call again with the same arguments.
        """
        return store_picture(self._objects, keys, encoded, manifest, self._replaced)

    def put_checkpoint(self, key: str, data: bytes) -> None:
        """Store what is left of a job that was released. Raises RequestRejected, StoreUnavailable."""
        self._objects.put(key, data, _CHECKPOINT_LABEL)

    def fetch_manifest(self, girl_id: str, job_id: str) -> dict[str, Any] | None:
        """The manifest of a complete picture, or None: not made yet, or cut short, or not one of ours.

        Raises:
            RequestRejected: `internal`, the store will never take this key.
            StoreUnavailable: nobody knows; wait and ask again.
            ValueError: for ids that are none.
        """
        return read_manifest(self._objects, girl_id, job_id, object_keys(girl_id, job_id, "jpeg").manifest)

    def find_manifests(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The manifests of a job whose girl is not known, by asking for that job of every girl.

        That is one or two requests a girl: `fetch_manifest` is the way where the girl is known. Two girls have the same
        job id only by mistake (docs/identity.md).

        Raises:
            StoreUnavailable: nobody knows; or the credentials may not list the bucket.
            ValueError: for an id that is none.
        """
        object_keys("girl", job_id, "jpeg")
        girls = {girl for prefix in (MANIFESTS, PICTURES) for girl in list_folders(self._objects, f"{prefix}/")}
        for girl_id in sorted(girls):
            manifest = self.fetch_manifest(girl_id, job_id) if SAFE_NAME.fullmatch(girl_id) else None
            if manifest is not None:
                yield manifest

    @property
    def objects(self) -> S3Objects:
        """The bucket itself, for what is not about one picture."""
        return self._objects

    def fetch(self, key: str) -> bytes | None:
        """An object's bytes, or None where there is none. Raises RequestRejected, StoreUnavailable."""
        there = self._objects.get(key)
        return None if there is None else there.data

    def url(self, key: str) -> str:
        """Where a browser finds an object: under `CLOUDFRONT_URL`, else at the bucket itself.

        The address of a picture is signed where the settings say so; that of a manifest, which no browser may read,
        never is.

        Raises:
            StoreUnavailable: there are no credentials to sign with now.
        """
        is_public = key.startswith(f"{PICTURES}/") and not key.endswith(".json")
        if is_public and self._presigned_s is not None:
            return self._objects.presigned_url(key, self._presigned_s)
        base = self._public_url or bucket_url(self._objects.client.meta.endpoint_url, self._bucket)
        plain = f"{base}/{quote(key)}"
        return self._sign(plain) if is_public and self._sign is not None else plain

    def _follow(self, region: str | None) -> None:
        """Use the bucket's own region, whatever `AWS_REGION` says."""
        if region and self._client_in is not None and region != self._objects.client.meta.region_name:
            self._objects.client = self._client_in(region)


def _cloudfront_signer(settings: Settings) -> Sign | None:
    if settings.url_signing != "cloudfront":
        return None
    # Only this needs `cryptography`.
    from worker.delivery.signed_urls import cloudfront_signer

    assert settings.cloudfront_key_pair_id is not None
    assert settings.cloudfront_private_key_path is not None
    return cloudfront_signer(
        settings.cloudfront_key_pair_id, settings.cloudfront_private_key_path, settings.url_lifetime_s
    )
