"""The start: certain mistakes end it, everything else is waited out, and missing rights are told."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from tests.delivery.s3_server import DENIED, Answer, Request, S3Server, settings_for
from worker.delivery import s3_client
from worker.delivery.s3_objects import access_check_key
from worker.delivery.upload import PictureStore
from worker.errors import BucketError, StoreUnavailable

CHECKS = {access_check_key("generated"), access_check_key("manifests")}


@pytest.fixture(autouse=True)
def _no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 1)


@pytest.fixture
def store(s3: S3Server) -> PictureStore:
    return PictureStore.from_settings(settings_for(s3.endpoint_url))


def test_a_good_bucket_is_written_to_and_read(s3: S3Server, store: PictureStore) -> None:
    store.check()
    assert s3.objects.keys() == CHECKS
    assert all(key.split("/")[1].startswith(".") for key in CHECKS), "no id begins with a dot"


# certain mistakes


def test_a_bucket_that_is_not_there(s3: S3Server) -> None:
    with pytest.raises(BucketError, match="'nowhere' does not exist"):
        PictureStore.from_settings(settings_for(s3.endpoint_url, aws_s3_bucket="nowhere")).check()


def test_a_name_that_only_the_store_refuses(s3: S3Server, store: PictureStore) -> None:
    s3.refuse = lambda _: Answer(400, "InvalidBucketName")
    with pytest.raises(BucketError, match="AWS_S3_BUCKET"):
        store.check()


def test_no_credentials_at_all(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    none = {"aws_access_key_id": None, "aws_secret_access_key": None}
    store = PictureStore.from_settings(settings_for(s3.endpoint_url, **none))
    with pytest.raises(BucketError, match="no S3 credentials were found"):
        store.check()
    assert not s3.requests


# what may pass


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch"), (400, "ExpiredToken"), (404, ""), (500, ""),
        (503, "SlowDown"), (400, "KMS.DisabledException"), (403, "RequestTimeTooSkewed"), (403, ""),
        (301, "PermanentRedirect"),
    ],
)  # fmt: skip
def test_an_answer_that_may_pass_is_waited_out(s3: S3Server, store: PictureStore, status: int, code: str) -> None:
    s3.refuse = lambda _: Answer(status, code)
    with pytest.raises(StoreUnavailable):
        store.check()
    s3.refuse = lambda _: None
    store.check()


def test_nobody_at_the_address(store: PictureStore, s3: S3Server) -> None:
    other = PictureStore.from_settings(settings_for("http://127.0.0.1:1"))
    with pytest.raises(StoreUnavailable, match="does not answer"):
        other.check()
    with pytest.raises(BucketError, match="AWS_ENDPOINT_URL_S3"):
        other.require_bucket()
    store.require_bucket()
    assert not s3.objects, "a command that only reads writes nothing"


# rights


@pytest.mark.parametrize(
    ("method", "prefix", "right"),
    [
        ("PUT", "generated", r"s3:PutObject on generated/\*"),
        ("PUT", "manifests", r"s3:PutObject on manifests/\*"),
        ("GET", "manifests", r"s3:GetObject on manifests/\*"),
    ],
)
def test_a_missing_right_is_told(s3: S3Server, store: PictureStore, method: str, prefix: str, right: str) -> None:
    s3.refuse = lambda request: DENIED if request.method == method and request.key.startswith(prefix) else None
    with pytest.raises(StoreUnavailable, match=right):
        store.check()


def may_not_list(s3: S3Server) -> None:
    s3.may_list = False


def test_credentials_that_may_not_list_find_what_is_there_and_what_is_not(s3: S3Server, store: PictureStore) -> None:
    may_not_list(s3)
    store.check()
    assert store.fetch("manifests/g/missing.json") is None
    s3.objects["manifests/g/there.json"] = b"{}"
    assert store.fetch("manifests/g/there.json") == b"{}"


def test_a_right_to_list_that_is_taken_away_later_is_noticed(s3: S3Server, store: PictureStore) -> None:
    store.check()
    may_not_list(s3)
    assert store.fetch("manifests/g/missing.json") is None


def test_a_403_says_nothing_where_nothing_can_be_read(s3: S3Server, store: PictureStore) -> None:
    may_not_list(s3)
    store.check()
    s3.refuse = lambda request: DENIED if request.method == "GET" else None
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        store.fetch("manifests/g/missing.json")


def test_a_403_for_those_who_may_list_is_a_refusal(s3: S3Server, store: PictureStore) -> None:
    store.check()
    s3.refuse = lambda request: DENIED if request.key == "manifests/g/j.json" else None
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        store.fetch("manifests/g/j.json")


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"])
def test_only_a_missing_right_hides_an_object(s3: S3Server, store: PictureStore, code: str) -> None:
    may_not_list(s3)
    store.check()
    s3.refuse = lambda request: Answer(403, code) if request.key == "manifests/g/j.json" else None
    with pytest.raises(StoreUnavailable, match=code):
        store.fetch("manifests/g/j.json")


# the region


class Aws:
    """Answers for AWS, without a network: a bucket in Frankfurt."""

    def __init__(self, store: PictureStore, *, may_list: bool) -> None:
        self.hosts: list[str] = []
        self._may_list = may_list
        self._watch(store)
        make = store._client_in
        assert make is not None

        def watched(region: str) -> Any:
            client = make(region)
            client.meta.events.register("before-send.s3", self._answer)
            return client

        store._client_in = watched

    def _watch(self, store: PictureStore) -> None:
        store._objects.client.meta.events.register("before-send.s3", self._answer)

    def _answer(self, request: Any, **_: Any) -> Any:
        self.hosts.append(request.url.split("/")[2])
        headers: Any = {"x-amz-bucket-region": "eu-central-1", "ETag": '"e"'}
        status = 200 if self._may_list or request.method != "HEAD" else 403
        if request.method == "PUT" and "If-None-Match" in request.headers:
            status = 412
        return AWSResponse(request.url, status, headers, Raw())


class Raw:
    """An empty body."""

    def stream(self, **_: Any) -> Any:
        yield b""

    def read(self, *_: Any) -> bytes:
        return b""


@pytest.mark.parametrize("may_list", [True, False])
def test_addresses_are_in_the_buckets_own_region(may_list: bool) -> None:
    store = PictureStore.from_settings(settings_for(None, aws_region="us-east-1"))
    aws = Aws(store, may_list=may_list)
    store.check()
    assert store.url("generated/g/j.jpg") == "https://pictures.s3.eu-central-1.amazonaws.com/generated/g/j.jpg"
    assert aws.hosts[-1] == "pictures.s3.eu-central-1.amazonaws.com"


def test_an_address_that_was_set_is_kept(s3: S3Server) -> None:
    def elsewhere(request: Request) -> Answer | None:
        return Answer(200, headers={"x-amz-bucket-region": "eu-central-1"}) if not request.key else None

    s3.refuse = elsewhere
    for cloudfront, expected in (
        (None, f"{s3.endpoint_url}/pictures/k"),
        ("https://cdn.example", "https://cdn.example/k"),
    ):
        store = PictureStore.from_settings(settings_for(s3.endpoint_url, cloudfront_url=cloudfront))
        store.check()
        assert store.url("k") == expected
