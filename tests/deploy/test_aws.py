"""The files of deploy/aws: each role can do its work with its policy, and uses all of it; AWS knows their fields."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from tests.deploy.iam_s3 import BUCKET, IamS3
from tests.deploy.tools import ROOT
from worker.cli.forget.objects import count_objects, delete_objects, find_jobs
from worker.cli.forget.record import Forgotten, forgotten_digests, put_record
from worker.cli.forget.subject import Kind, Subject
from worker.delivery.encode import EncodedPicture
from worker.delivery.keys import object_keys
from worker.delivery.s3_listing import is_versioned
from worker.delivery.upload import PictureStore
from worker.errors import WorkerError
from worker.settings import Settings

AWS = ROOT / "deploy/aws"
PICTURE = EncodedPicture(
    data=b"data", content_type="image/jpeg", extension="jpg", thumbnail=b"thumbnail", blurhash="", sha256="0" * 64,
    pixel_sha256="0" * 64, width=8, height=8,
)  # fmt: skip
MANIFEST = {"job_id": "job", "girl_id": "luna", "user_id": 7, "picture": {"sha256": "0" * 64}}
# What the bucket holds: a picture, one of version 1 with its manifest beside it, and a checkpoint.
OBJECTS = {
    "generated/luna/job.jpg": b"x",
    "generated/luna/job_thumb.jpg": b"x",
    "manifests/luna/job.json": json.dumps(MANIFEST).encode(),
    "generated/luna/old.jpg": b"x",
    "generated/luna/old.json": json.dumps(MANIFEST | {"job_id": "old"}).encode(),
    "checkpoints/luna/job.0123456789abcdef.safetensors": b"x",
    "forgotten/20260208T000000Z-0.json": b'{"job_digests": []}',
}


def load(name: str) -> Any:
    return json.loads((AWS / f"{name}.json").read_text())


def store_of(role: str, policy: Any = None) -> tuple[PictureStore, IamS3]:
    settings = Settings(
        _env_file=None, aws_s3_bucket=BUCKET, aws_region="us-east-1", aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key="secret",
    )  # fmt: skip
    store = PictureStore.from_settings(settings)
    s3 = IamS3(policy or load(f"{role}-policy"), dict(OBJECTS))
    s3.attach(store.objects.client)
    return store, s3


def be_worker(store: PictureStore) -> None:
    """The start, a picture, a checkpoint, a request that is repeated, one that is new."""
    store.check()
    store.put_picture(object_keys("luna", "new", "jpeg"), PICTURE, MANIFEST | {"job_id": "new"})
    store.put_checkpoint("checkpoints/luna/new.safetensors", b"latents")
    assert store.fetch("checkpoints/luna/new.safetensors") == b"latents"
    assert store.fetch_manifest("luna", "nobody") is None
    store.fetch_manifest("luna", "old")


def be_gateway(store: PictureStore) -> None:
    """A look-up of a job whose girl is known, is not there, and is of version 1."""
    for job_id in ("job", "nobody", "old"):
        store.fetch_manifest("luna", job_id)


def be_forget(store: PictureStore) -> None:
    """A user is forgotten."""
    objects, subject = store.objects, Subject(kind=Kind.USER, user_id=7)
    found = find_jobs(objects, subject)
    assert found.jobs == {("luna", "job"), ("luna", "old")}
    count_objects(objects, subject, found.jobs)
    delete_objects(objects, subject, found.jobs)
    assert is_versioned(objects) is True
    put_record(
        objects,
        Forgotten(kind=Kind.USER, at=datetime.now(UTC), job_ids=frozenset({"job"}), removed={}, complete=True),
    )


def be_replay(store: PictureStore) -> None:
    """Pictures are compared with their manifests, and one that was missing is made."""
    store.require_bucket()
    forgotten_digests(store.objects)
    store.fetch_manifest("luna", "job")
    store.put_picture(object_keys("luna", "missing", "jpeg"), PICTURE, MANIFEST | {"job_id": "missing"})


ROLES: dict[str, Callable[[PictureStore], None]] = {
    "worker": be_worker,
    "gateway": be_gateway,
    "forget": be_forget,
    "replay": be_replay,
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_can_do_its_work_and_may_do_no_more(role: str) -> None:
    store, s3 = store_of(role)
    ROLES[role](store)
    assert s3.denied == []
    assert s3.used == s3.granted()


@pytest.mark.parametrize("role", ROLES)
def test_the_store_refuses_what_the_policy_does_not_allow(role: str) -> None:
    """A fake that allowed everything would pass the test above."""
    policy = load(f"{role}-policy")
    for left_out in policy["Statement"]:
        less = [statement for statement in policy["Statement"] if statement is not left_out]
        store, s3 = store_of(role, {**policy, "Statement": less})
        with contextlib.suppress(WorkerError, AssertionError):
            ROLES[role](store)
        assert s3.denied, left_out["Sid"]


def test_every_role_has_its_file_and_every_file_is_documented() -> None:
    assert {path.stem.removesuffix("-policy") for path in AWS.glob("*-policy.json")} == {*ROLES, "bucket"}
    page = (ROOT / "docs/deploy.md").read_text()
    for path in AWS.glob("*.json"):
        assert f"deploy/aws/{path.name}" in page, path.name


def test_a_deleting_role_cannot_write_pictures_and_a_writing_one_cannot_delete() -> None:
    def actions(role: str) -> set[str]:
        return {action for statement in load(f"{role}-policy")["Statement"] for action in statement["Action"]}

    assert "s3:DeleteObject" not in actions("worker") | actions("gateway") | actions("replay")
    assert "s3:PutObject" not in actions("gateway")
    for statement in load("forget-policy")["Statement"]:
        if "s3:PutObject" in statement["Action"]:
            assert all(resource.endswith("/forgotten/*") for resource in statement["Resource"])


class TestBucket:
    """Statements are read by eye in review; this holds what must not slip."""

    def test_manifests_are_for_no_browser(self) -> None:
        statements = load("bucket-policy")["Statement"]
        for statement in statements:
            if statement["Effect"] == "Allow":
                assert statement["Principal"] == {"Service": "cloudfront.amazonaws.com"}
                assert statement["Condition"]["StringEquals"]["AWS:SourceArn"].startswith("arn:aws:cloudfront::")
                assert statement["Resource"] == f"arn:aws:s3:::{BUCKET}/generated/*"
                assert statement["Action"] == "s3:GetObject"
        [denied] = [s for s in statements if s["Sid"] == "ManifestsOfVersion1AreNotForBrowsers"]
        assert (denied["Effect"], denied["Principal"]) == ("Deny", "*")
        assert denied["Resource"] == f"arn:aws:s3:::{BUCKET}/generated/*.json"

    @pytest.mark.parametrize(
        ("service", "operation", "wrapped"),
        [
            ("s3", "PutBucketLifecycleConfiguration", lambda d: {"Bucket": "b", "LifecycleConfiguration": d}),
            ("s3", "PutPublicAccessBlock", lambda d: {"Bucket": "b", "PublicAccessBlockConfiguration": d}),
            ("cloudfront", "CreateOriginAccessControl", lambda d: {"OriginAccessControlConfig": d}),
        ],
    )
    def test_aws_knows_the_fields(self, service: str, operation: str, wrapped: Callable[[Any], Any]) -> None:
        name = {
            "PutBucketLifecycleConfiguration": "lifecycle",
            "PutPublicAccessBlock": "public-access-block",
            "CreateOriginAccessControl": "origin-access-control",
        }[operation]
        model = botocore.session.Session().get_service_model(service)
        shape = model.operation_model(operation).input_shape
        assert shape is not None
        assert ParamValidator().validate(wrapped(load(name)), shape).generate_report() == ""
        assert ParamValidator().validate(wrapped({**load(name), "Misspelt": 1}), shape).has_errors()

    def test_nothing_that_is_needed_expires(self) -> None:
        for rule in load("lifecycle")["Rules"]:
            if "Expiration" in rule:
                assert rule["Filter"]["Prefix"] == "checkpoints/"
                assert rule["Expiration"]["Days"] >= 1
