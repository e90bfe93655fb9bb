"""The bucket: there, in which region, and whether a probe can be written, read, kept by a condition and deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import urlopen

from botocore.exceptions import BotoCoreError

from worker.delivery.keys import CHECKPOINTS, MANIFESTS, PICTURES
from worker.delivery.s3_client import bucket_url, make_client
from worker.delivery.s3_credentials import ReloadedCredentials, load_credentials
from worker.delivery.s3_errors import ConditionFailed, Refused, translated
from worker.delivery.s3_objects import Label, S3Objects
from worker.delivery.store_access import check_bucket
from worker.doctor.finding import Finding, failed, ok, skipped, warning
from worker.errors import BucketError, RequestRejected, SettingsError, StoreUnavailable
from worker.settings import Settings, secrets_dir

SUBJECT = "bucket"
_LABEL = Label("text/plain", "no-store")
_FETCH_S = 10.0


def check(settings: Settings) -> Iterator[Finding]:
    """Look at the bucket, then write a probe below each prefix, read it and delete it."""
    try:
        bucket = settings.bucket
        credentials = ReloadedCredentials(load_credentials(settings, secrets_dir()))
        objects = S3Objects(make_client(settings, credentials), bucket, credentials)
        where = objects.client.meta.endpoint_url
        region = check_bucket(objects, bucket)
    except (SettingsError, BucketError) as error:
        what, _, cure = str(error).rpartition(": ")
        yield failed(SUBJECT, what or cure, cure if what else "put this setting right")
        return
    except (BotoCoreError, ValueError) as error:
        yield failed(SUBJECT, f"no S3 client can be made: {error}", "put AWS_ENDPOINT_URL_S3 or the AWS profile right")
        return
    except StoreUnavailable as error:
        yield failed(SUBJECT, f"{bucket}: {error}", "see that AWS_ENDPOINT_URL_S3, the network and the keys are right")
        return
    yield ok(SUBJECT, f"{bucket} is there, at {where}")
    yield _region(settings, region)
    if region and settings.aws_endpoint_url_s3 is None and region != objects.client.meta.region_name:
        # As a worker does, which follows the bucket to its region.
        objects.client = make_client(settings, credentials, region)
    for prefix in (PICTURES, MANIFESTS, *((CHECKPOINTS,) if settings.checkpoint_jobs else ())):
        yield from _Probe(settings, objects, bucket, prefix).findings()


def _region(settings: Settings, region: str | None) -> Finding:
    if region is None:
        return skipped("region", "the store does not tell the bucket's region")
    if region != settings.aws_region:
        return warning(
            "region",
            f"the bucket is in {region}, and AWS_REGION is {settings.aws_region}",
            f"set AWS_REGION={region}; the worker finds its way all the same, with one more request at the start",
        )
    return ok("region", f"{region}, as AWS_REGION says")


class _Probe:
    """One small object below a prefix, named after this worker, so that two doctors do not meet."""

    def __init__(self, settings: Settings, objects: S3Objects, bucket: str, prefix: str) -> None:
        self._objects = objects
        self._bucket = bucket
        self._prefix = prefix
        self._public = settings.cloudfront_url
        self._key = f"{prefix}/.sdxl-worker/doctor-{settings.worker_id}-{os.getpid()}"
        self._body = f"sdxl-worker doctor {os.urandom(8).hex()}\n".encode()

    def findings(self) -> Iterator[Finding]:
        """Write, read, write again on a condition, and delete whatever happened in between."""
        subject = f"{SUBJECT}: {self._prefix}"
        try:
            self._objects.put(self._key, self._body, _LABEL)
        except (StoreUnavailable, RequestRejected) as error:
            yield self._refused(error, "write", f"s3:PutObject on {self._prefix}/*")
            return
        try:
            there = self._objects.get(self._key)
            if there is None or there.data != self._body:
                yield failed(subject, "the probe that was written is not what is read", "look at the store's own log")
            else:
                yield ok(subject, "a probe can be written and read")
            yield from self._condition()
            if self._prefix == PICTURES:
                yield self._in_browser()
        except (StoreUnavailable, RequestRejected) as error:
            yield self._refused(error, "read", f"s3:GetObject on {self._prefix}/*")
        finally:
            deleted = self._delete()
        yield deleted

    def _refused(self, error: Exception, what: str, right: str) -> Finding:
        forbidden = isinstance(error, Refused) and error.is_forbidden
        cure = f"grant {right} (deploy.md, The bucket)" if forbidden else "see the store's answer; it may pass"
        return failed(f"{SUBJECT}: {self._prefix}", f"a probe cannot be {_PAST[what]}: {error}", cure)

    def _condition(self) -> Iterator[Finding]:
        try:
            self._objects.put(self._key, self._body, _LABEL, absent=True)
        except ConditionFailed:
            return
        yield warning(
            f"{SUBJECT}: {self._prefix}",
            "the store ignores conditional puts (If-None-Match)",
            "a late worker may overwrite a picture with its equal; use a store that knows them if there is one",
        )

    def _in_browser(self) -> Finding:
        base = self._public or bucket_url(self._objects.client.meta.endpoint_url, self._bucket)
        try:
            with urlopen(f"{base}/{self._key}", timeout=_FETCH_S) as answer:
                shown = answer.read() == self._body
                status = f"{answer.status} with something else"
        except HTTPError as error:
            shown, status = False, str(error.code)
        except (OSError, HTTPException, ValueError) as error:
            shown, status = False, f"nothing ({type(error).__name__})"
        if shown:
            return ok("picture URLs", f"a browser reads what lies below {base}/{self._prefix}/")
        return warning(
            "picture URLs",
            f"without credentials, {base}/{self._prefix}/… answers {status}",
            "set CLOUDFRONT_URL to an address that may read the bucket, or sign URLs; see deploy.md, The bucket",
        )

    def _delete(self) -> Finding:
        subject = f"{SUBJECT}: {self._prefix}"
        try:
            with translated():
                self._objects.client.delete_object(Bucket=self._bucket, Key=self._key)
        except (StoreUnavailable, RequestRejected) as error:
            return warning(
                subject,
                f"the probe {self._key} could not be deleted and is left behind: {error}",
                f"delete it; only forgetting pictures needs s3:DeleteObject on {self._prefix}/*, drawing does not",
            )
        return ok(subject, "the probe could be deleted, and is gone")


_PAST = {"write": "written", "read": "read"}
