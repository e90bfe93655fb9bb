"""SeaweedFS on this machine: an S3 store that keeps its data and rejects other credentials."""

from __future__ import annotations

import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from devtools.local.process import port_is_free
from devtools.local.seaweedfs import SeaweedFS


def read(store: SeaweedFS, key: str) -> bytes:
    return store.client().get_object(Bucket=store.bucket, Key=key)["Body"].read()


@pytest.fixture
def key() -> str:
    return f"generated/{uuid.uuid4().hex}"


def test_an_object_comes_back_with_its_headers(s3: SeaweedFS, key: str) -> None:
    s3.client().put_object(Bucket=s3.bucket, Key=key, Body=b"jpeg", ContentType="image/jpeg", CacheControl="max-age=1")
    found = s3.client().get_object(Bucket=s3.bucket, Key=key)
    assert (found["Body"].read(), found["ContentType"], found["CacheControl"]) == (
        b"jpeg",
        "image/jpeg",
        "max-age=1",
    )


def test_a_conditional_put_refuses_to_overwrite(s3: SeaweedFS, key: str) -> None:
    s3.client().put_object(Bucket=s3.bucket, Key=key, Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.client().put_object(Bucket=s3.bucket, Key=key, Body=b"second", IfNoneMatch="*")
    assert read(s3, key) == b"first"


@pytest.mark.parametrize(
    ("field", "code"), [("access_key", "InvalidAccessKeyId"), ("secret_key", "SignatureDoesNotMatch")]
)
def test_wrong_credentials_are_refused(
    s3: SeaweedFS, key: str, field: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, field, "wrong")
    with pytest.raises(ClientError, match=code):
        s3.client().put_object(Bucket=s3.bucket, Key=key, Body=b"x")


def status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_browser_sees_pictures_and_nothing_else(s3: SeaweedFS) -> None:
    name = uuid.uuid4().hex
    for prefix in ("generated", "manifests", "checkpoints", "forgotten"):
        s3.client().put_object(Bucket=s3.bucket, Key=f"{prefix}/g/{name}", Body=b"x")
    address = f"{s3.endpoint_url}/{s3.bucket}"
    request = urllib.request.Request
    assert status(request(f"{address}/generated/g/{name}")) == 200
    for path in (f"manifests/g/{name}", f"checkpoints/g/{name}", f"forgotten/g/{name}", "", "?list-type=2"):
        assert status(request(f"{address}/{path}")) == 403, path
    assert status(request(f"{address}/generated/g/{name}", data=b"y", method="PUT")) == 403
    assert status(request(f"{address}/generated/g/{name}", method="DELETE")) == 403


def test_other_buckets_are_not_made_by_writing(s3: SeaweedFS, key: str) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.client().put_object(Bucket="no-such-bucket", Key=key, Body=b"x")


def test_data_survives_stop_and_kill_on_the_same_port(tmp_path: Path, key: str) -> None:
    with SeaweedFS(tmp_path, "pictures") as store:
        endpoint = store.endpoint_url
        store.client().put_object(Bucket="pictures", Key=key, Body=b"x" * 300_000)
        store.stop()
        store.start()
        assert read(store, key) == b"x" * 300_000
        store.client().put_object(Bucket="pictures", Key=key + "2", Body=b"y" * 300_000)
        store.kill()
        assert not store.running
        with pytest.raises(BotoCoreError):
            store.client().head_bucket(Bucket="pictures")
        store.start()
        assert store.endpoint_url == endpoint
        assert read(store, key) == b"x" * 300_000
        assert read(store, key + "2") == b"y" * 300_000
    # A new object on the same folder, its inner ports others: what `make services` does on its next run.
    with SeaweedFS(tmp_path, "pictures") as store:
        assert read(store, key) == b"x" * 300_000
        store.client().put_object(Bucket="pictures", Key=key + "3", Body=b"z" * 300_000)
        assert read(store, key + "2") == b"y" * 300_000
        assert read(store, key + "3") == b"z" * 300_000
    assert not store.running
    assert port_is_free(store.port)
    assert not list(Path("/tmp").glob(f"seaweedfs-*-{store.port}.sock"))


def test_a_suspended_store_answers_again_after_resume(tmp_path: Path, key: str) -> None:
    with SeaweedFS(tmp_path, "pictures") as store:
        impatient = store.client(read_timeout_s=0.5)
        store.suspend()
        with pytest.raises(BotoCoreError, match="Read timeout"):
            impatient.put_object(Bucket=store.bucket, Key=key, Body=b"x")
        assert store.running
        store.resume()
        store.client().put_object(Bucket=store.bucket, Key=key, Body=b"x")
        assert read(store, key) == b"x"
