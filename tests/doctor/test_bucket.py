"""The bucket's check on a real store, and where a right is missing."""

from __future__ import annotations

from typing import Any

import pytest

from devtools.local.seaweedfs import SeaweedFS
from worker.delivery.s3_client import make_client
from worker.delivery.s3_credentials import ReloadedCredentials, load_credentials
from worker.delivery.s3_errors import Refused
from worker.delivery.s3_objects import S3Objects, StoredObject
from worker.doctor.bucket import _Probe, check
from worker.doctor.finding import Finding, Level
from worker.settings import Settings


def made(s3: SeaweedFS, **changes: Any) -> Settings:
    given = {name.lower(): value for name, value in s3.environment.items()} | {"worker_id": "doctor-test"}
    return Settings(_env_file=None, **(given | changes))


def failures(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level is Level.FAILED]


def test_a_probe_leaves_nothing_behind(s3: SeaweedFS) -> None:
    settings = made(s3)
    found = list(check(settings))
    assert not failures(found)
    assert sum("deleted" in finding.text for finding in found) == 2
    client = make_client(settings, ReloadedCredentials(load_credentials(settings, None)))
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=settings.bucket).get("Contents", [])]
    assert not [key for key in keys if "doctor" in key]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aws_s3_bucket": "no-such-bucket"}, "does not exist"),
        ({"aws_secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"aws_s3_bucket": None}, "AWS_S3_BUCKET is not set"),
    ],
)
def test_what_keeps_a_bucket_from_being_used(s3: SeaweedFS, changes: dict[str, Any], said: str) -> None:
    [found] = check(made(s3, **changes))
    assert found.level is Level.FAILED
    assert said in found.text
    assert found.advice


class FakeObjects:
    """A store that refuses some operations, by the API's name of each."""

    def __init__(self, *refused: str) -> None:
        self._refused = refused
        self.client = self
        self.meta: Any = type("Meta", (), {"endpoint_url": "http://127.0.0.1:1"})
        self.kept: dict[str, bytes] = {}

    def _ask(self, operation: str) -> None:
        if operation in self._refused:
            raise Refused(operation, "AccessDenied", 403)

    def put(self, key: str, body: bytes, _label: object, *, absent: bool = False) -> str:
        self._ask("PutObject")
        self.kept[key] = body
        return "etag" if absent else ""

    def get(self, key: str) -> StoredObject:
        self._ask("GetObject")
        return StoredObject(self.kept[key], "")

    def delete_object(self, *, Bucket: str, Key: str) -> None:  # noqa: ARG002
        self._ask("DeleteObject")
        del self.kept[Key]


@pytest.mark.parametrize(
    ("refused", "level", "right", "left"),
    [
        ("PutObject", Level.FAILED, "s3:PutObject", 0),
        ("GetObject", Level.FAILED, "s3:GetObject", 0),
        ("DeleteObject", Level.WARNING, "s3:DeleteObject", 1),
    ],
)
def test_a_missing_right_is_named(refused: str, level: Level, right: str, left: int) -> None:
    objects: Any = FakeObjects(refused)
    probe = _Probe(Settings(_env_file=None), objects, "pictures", "manifests")
    found = list(probe.findings())
    assert [finding for finding in found if finding.level is level and right in finding.advice]
    assert len(objects.kept) == left


def test_the_fake_has_the_methods_of_the_real_one() -> None:
    assert all(hasattr(S3Objects, name) for name in ("put", "get"))
