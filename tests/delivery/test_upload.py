from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.exceptions import (
    EndpointConnectionError,
    ParamValidationError,
)

from devtools.local.seaweedfs import SeaweedFS
from tests.delivery.s3_server import settings_for
from worker.delivery import s3_client
from worker.delivery.encode import EncodedPicture
from worker.delivery.keys import Keys, object_keys
from worker.delivery.picture_put import PRIVATE_CACHE, PUBLIC_CACHE
from worker.delivery.s3_objects import S3Objects
from worker.delivery.upload import PictureStore
from worker.errors import BucketError, StoreUnavailable
from worker.events.types import OutputFormat

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.filterwarnings("ignore:Image.Image.getdata:DeprecationWarning")

MakeManifest = Callable[..., tuple[EncodedPicture, dict[str, Any]]]

BUCKET = "pictures"
RECOVERY_LIMIT_S = 20.0


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A store of this module's own, since its tests take it down."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweed"), BUCKET) as server:
        yield server


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "CONNECT_TIMEOUT_S", 1)
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 1)
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)


def store_of(server: SeaweedFS, **changes: Any) -> PictureStore:
    credentials = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
    return PictureStore.from_settings(settings_for(server.endpoint_url, **(credentials | changes)))


def keys_of(manifest: dict[str, Any]) -> Keys:
    return object_keys(manifest["girl_id"], manifest["job_id"], manifest["picture"]["output_format"])


# the real store


def test_a_good_bucket_passes_the_check(seaweed: SeaweedFS) -> None:
    store = store_of(seaweed)
    store.require_bucket()
    store.check()


def test_a_picture_comes_back_as_it_went(
    seaweed: SeaweedFS, make_manifest: MakeManifest, output_format: OutputFormat
) -> None:
    encoded, manifest = make_manifest(job_id=f"round-{output_format}", output_format=output_format)
    store, keys = store_of(seaweed), keys_of(manifest)
    store.put_picture(keys, encoded, manifest)
    assert store.fetch(keys.image) == encoded.data
    assert store.fetch(keys.thumbnail) == encoded.thumbnail
    assert store.fetch_manifest("girl-1", f"round-{output_format}") == manifest


def test_objects_say_what_they_are_and_only_pictures_may_be_cached(
    seaweed: SeaweedFS, make_manifest: MakeManifest, output_format: OutputFormat
) -> None:
    encoded, manifest = make_manifest(job_id=f"headers-{output_format}", output_format=output_format)
    keys = keys_of(manifest)
    store_of(seaweed).put_picture(keys, encoded, manifest)
    for key, content_type, cache in (
        (keys.image, f"image/{output_format}", PUBLIC_CACHE),
        (keys.thumbnail, "image/jpeg", PUBLIC_CACHE),
        (keys.manifest, "application/json", PRIVATE_CACHE),
    ):
        head = seaweed.client().head_object(Bucket=BUCKET, Key=key)
        assert head["ContentType"] == content_type
        assert head["CacheControl"] == cache
    assert (PUBLIC_CACHE, PRIVATE_CACHE) == ("public, max-age=31536000, immutable", "private, no-store")


def test_storing_twice_is_storing_once(seaweed: SeaweedFS, make_manifest: MakeManifest) -> None:
    encoded, manifest = make_manifest(job_id="twice")
    store = store_of(seaweed)
    for _ in range(2):
        store.put_picture(keys_of(manifest), encoded, manifest)
    assert store.fetch_manifest("girl-1", "twice") == manifest


def test_what_is_not_there_is_none(seaweed: SeaweedFS) -> None:
    store = store_of(seaweed)
    assert store.fetch_manifest("girl-1", "never") is None
    assert store.fetch("generated/girl-1/never.jpg") is None


def test_a_manifest_cut_short_marks_nothing_complete(seaweed: SeaweedFS) -> None:
    seaweed.client().put_object(Bucket=BUCKET, Key="manifests/g/cut.json", Body=b'{"manifest_version": 1,')
    assert store_of(seaweed).fetch_manifest("g", "cut") is None


def test_an_evil_id_is_never_asked_for(seaweed: SeaweedFS) -> None:
    with pytest.raises(ValueError, match="girl_id"):
        store_of(seaweed).fetch_manifest("../secrets", "job")


@pytest.mark.parametrize(
    "wrong",
    [
        {"aws_access_key_id": "stranger"},
        {"aws_secret_access_key": "secret-that-never-prints"},
    ],
)
def test_refused_credentials_stop_the_start(seaweed: SeaweedFS, wrong: dict[str, str]) -> None:
    with pytest.raises(BucketError, match=r"S3 refused .*check .*AWS_ACCESS_KEY_ID") as caught:
        store_of(seaweed, **wrong).require_bucket()
    assert_tells_no_secret(caught.value, seaweed)


def test_a_missing_bucket_stops_the_start(seaweed: SeaweedFS) -> None:
    store = store_of(seaweed, aws_s3_bucket="nowhere")
    with pytest.raises(BucketError, match="'nowhere' does not exist") as caught:
        store.require_bucket()
    assert_tells_no_secret(caught.value, seaweed)
    with pytest.raises(BucketError, match="'nowhere' does not exist"):
        store.check()


def test_credentials_refused_in_flight_are_waited_out(seaweed: SeaweedFS, make_manifest: MakeManifest) -> None:
    encoded, manifest = make_manifest(job_id="denied")
    store = store_of(seaweed, aws_secret_access_key="secret-that-never-prints")
    with pytest.raises(StoreUnavailable) as caught:
        store.put_picture(keys_of(manifest), encoded, manifest)
    assert_tells_no_secret(caught.value, seaweed)
    with pytest.raises(StoreUnavailable):
        store.fetch_manifest("girl-1", "denied")


def test_a_bucket_deleted_in_flight_is_waited_out(seaweed: SeaweedFS, make_manifest: MakeManifest) -> None:
    encoded, manifest = make_manifest()
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        store_of(seaweed, aws_s3_bucket="nowhere").put_picture(keys_of(manifest), encoded, manifest)


def test_a_stopped_store_is_waited_out_and_found_again(seaweed: SeaweedFS, make_manifest: MakeManifest) -> None:
    encoded, manifest = make_manifest(job_id="outage")
    store = store_of(seaweed)
    store.put_picture(keys_of(manifest), encoded, manifest)
    seaweed.stop()
    try:
        with pytest.raises(StoreUnavailable):
            store.check()
        with pytest.raises(StoreUnavailable):
            store.put_picture(keys_of(manifest), encoded, manifest)
        with pytest.raises(StoreUnavailable):
            store.fetch_manifest("girl-1", "outage")
        with pytest.raises(BucketError, match=r"does not answer .* at http://"):
            store.require_bucket()
    finally:
        seaweed.start()
    # A store that has just come up may refuse for a moment what it holds: that, too, is waited out.
    wait_until(lambda: fetched(store, "outage") == manifest)
    store.put_picture(keys_of(manifest), encoded, manifest)


def answers(store: PictureStore) -> bool:
    try:
        store.check()
    except StoreUnavailable:
        return False
    return True


def fetched(store: PictureStore, job_id: str) -> dict[str, Any] | None:
    try:
        return store.fetch_manifest("girl-1", job_id)
    except StoreUnavailable:
        return None


def test_a_frozen_store_times_out_and_is_found_again(seaweed: SeaweedFS, make_manifest: MakeManifest) -> None:
    encoded, manifest = make_manifest(job_id="frozen")
    store = store_of(seaweed)
    seaweed.suspend()
    try:
        with pytest.raises(StoreUnavailable):
            store.put_picture(keys_of(manifest), encoded, manifest)
        with pytest.raises(StoreUnavailable):
            store.check()
    finally:
        seaweed.resume()
    wait_until(lambda: answers(store))
    store.put_picture(keys_of(manifest), encoded, manifest)
    assert store.fetch_manifest("girl-1", "frozen") == manifest


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_the_manifest_comes_last_whichever_put_fails(
    seaweed: SeaweedFS, make_manifest: MakeManifest, failing: int
) -> None:
    job_id = f"put-{failing}"
    encoded, manifest = make_manifest(job_id=job_id)
    client = FailingClient(seaweed.client(), failing)
    store, healthy = PictureStore(S3Objects(cast("S3Client", client), BUCKET), BUCKET), store_of(seaweed)
    with pytest.raises(StoreUnavailable):
        store.put_picture(keys_of(manifest), encoded, manifest)
    assert healthy.fetch_manifest("girl-1", job_id) is None
    store.put_picture(keys_of(manifest), encoded, manifest)
    assert healthy.fetch_manifest("girl-1", job_id) == manifest
    assert healthy.fetch(keys_of(manifest).image) == encoded.data
    keys = keys_of(manifest)
    assert client.order[-3:] == [keys.image, keys.thumbnail, keys.manifest]


# errors that are not S3's


@pytest.mark.parametrize("error", [ParamValidationError(report="bug"), TypeError("bug"), OSError("bug")])
def test_a_bug_is_no_outage(error: Exception) -> None:
    with pytest.raises(type(error)):
        store_that_raises(error).fetch("k")


def test_an_endpoint_that_is_no_url_stops_the_start() -> None:
    with pytest.raises(BucketError, match="cannot be made"):
        PictureStore.from_settings(settings_for("http://a..b"))


# addresses


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cloudfront_url": "d1.cloudfront.net/"}, "https://d1.cloudfront.net/generated/g/j.jpg"),
        ({}, "http://127.0.0.1:9/pictures/generated/g/j.jpg"),
        (
            {"aws_endpoint_url_s3": None, "aws_region": "eu-central-1"},
            "https://pictures.s3.eu-central-1.amazonaws.com/generated/g/j.jpg",
        ),
        (
            {"aws_endpoint_url_s3": None, "aws_region": "cn-north-1"},
            "https://pictures.s3.cn-north-1.amazonaws.com.cn/generated/g/j.jpg",
        ),
        (
            {"aws_endpoint_url_s3": None, "aws_region": "eu-central-1", "aws_s3_bucket": "my.pictures"},
            "https://s3.eu-central-1.amazonaws.com/my.pictures/generated/g/j.jpg",
        ),
    ],
)
def test_addresses(changes: dict[str, Any], expected: str) -> None:
    store = PictureStore.from_settings(settings_for("http://127.0.0.1:9", **changes))
    assert store.url("generated/g/j.jpg") == expected


def test_keys_are_percent_encoded() -> None:
    store = PictureStore.from_settings(settings_for("http://127.0.0.1:9"))
    assert store.url("a b?#%/é") == "http://127.0.0.1:9/pictures/a%20b%3F%23%25/%C3%A9"


def test_the_address_that_is_told_serves_the_picture(seaweed: SeaweedFS, make_manifest: MakeManifest) -> None:
    encoded, manifest = make_manifest(job_id="address")
    keys, store = keys_of(manifest), store_of(seaweed)
    store.put_picture(keys, encoded, manifest)
    with urllib.request.urlopen(store.url(keys.image)) as answer:
        assert answer.read() == encoded.data
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(store.url(keys.manifest))


def test_a_presigned_address_opens_what_is_private(seaweed: SeaweedFS) -> None:
    seaweed.client().put_object(Bucket=BUCKET, Key="private/x", Body=b"x")
    url = store_of(seaweed)._objects.presigned_url("private/x", 600)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"x"
    for other in (url.replace("private/x?", "private/y?"), url.replace("X-Amz-Expires=600", "X-Amz-Expires=6000")):
        assert other != url
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(other)


class FailingClient:
    """Passes everything to a real client, but the Nth put gets no answer."""

    def __init__(self, client: S3Client, failing: int) -> None:
        self._client = client
        self._failing = failing
        self.order: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **arguments: Any) -> Any:
        self.order.append(arguments["Key"])
        if len(self.order) == self._failing:
            raise EndpointConnectionError(endpoint_url=self._client.meta.endpoint_url)
        return self._client.put_object(**arguments)


class RaisingClient:
    """Answers everything with one error."""

    def __init__(self, client: S3Client, error: Exception) -> None:
        self.meta, self.exceptions = client.meta, client.exceptions
        self._error = error

    def _raise(self, **_: Any) -> Any:
        raise self._error

    get_object = head_bucket = put_object = _raise


def store_that_raises(error: Exception) -> PictureStore:
    client = SeaweedFS("unused", BUCKET).client()
    return PictureStore(S3Objects(cast("S3Client", RaisingClient(client, error)), BUCKET), BUCKET)


def assert_tells_no_secret(error: Exception, server: SeaweedFS) -> None:
    for secret in (server.access_key, server.secret_key, "secret-that-never-prints"):
        assert secret not in str(error)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "the store did not come back"
        time.sleep(0.1)
