"""Signed addresses: what CloudFront and S3 would check of them, checked here."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.delivery.s3_server import settings_for
from worker.delivery.completed import completed_event
from worker.delivery.signed_urls import cloudfront_signer
from worker.delivery.upload import PictureStore
from worker.errors import SettingsError, StoreUnavailable
from worker.events.headers import event_id
from worker.events.types import Priority, timestamp

pytestmark = pytest.mark.filterwarnings("ignore:Image.Image.getdata:DeprecationWarning")

KEY_ID = "K2JCJMDEHXQW5F"
IMAGE = "generated/g/j.jpg"
MakeManifest = Callable[..., tuple[Any, dict[str, Any]]]


def pem(key: Any, *, passphrase: bytes | None = None) -> bytes:
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def from_cloudfront(text: str) -> bytes:
    return base64.b64decode(text.translate(str.maketrans("-_~", "+=/")))


def cloudfront_store(key_file: Path, **changes: Any) -> PictureStore:
    signing = {
        "cloudfront_url": "https://cdn.example",
        "url_signing": "cloudfront",
        "cloudfront_key_pair_id": KEY_ID,
        "cloudfront_private_key_path": key_file,
    }
    return PictureStore.from_settings(settings_for("http://127.0.0.1:9", **(signing | changes)))


def test_cloudfront_accepts_the_signature_of_exactly_this_address(rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(rsa_key))
    sign = cloudfront_signer(KEY_ID, tmp_path / "key.pem", 3_600, clock=lambda: 1_000_000.0)
    url = sign("https://cdn.example/generated/g/j.jpg")
    found = query(url)
    assert url.startswith("https://cdn.example/generated/g/j.jpg?")
    assert (found["Key-Pair-Id"], found["Expires"]) == (KEY_ID, "1003600")
    # The canned policy, byte for byte as CloudFront composes it from the address and `Expires`.
    condition = {"DateLessThan": {"AWS:EpochTime": 1_003_600}}
    policy = {"Statement": [{"Resource": "https://cdn.example/generated/g/j.jpg", "Condition": condition}]}
    text = json.dumps(policy, separators=(",", ":")).encode()
    signature = from_cloudfront(found["Signature"])
    rsa_key.public_key().verify(signature, text, PKCS1v15(), SHA1())
    with pytest.raises(InvalidSignature):
        rsa_key.public_key().verify(signature, text.replace(b"j.jpg", b"k.jpg"), PKCS1v15(), SHA1())


def test_cloudfronts_other_kind_of_key(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(pem(key))
    url = cloudfront_signer(KEY_ID, tmp_path / "key.pem", 60, clock=lambda: 0.0)("https://cdn.example/a")
    policy = b'{"Statement":[{"Resource":"https://cdn.example/a","Condition":{"DateLessThan":{"AWS:EpochTime":60}}}]}'
    key.public_key().verify(from_cloudfront(query(url)["Signature"]), policy, ec.ECDSA(SHA1()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        pem(Ed25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP256R1()), passphrase=b"secret"),
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ],
    ids=["empty", "text", "ed25519", "passphrase", "damaged"],
)
def test_a_file_without_a_usable_key_stops_the_start(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(SettingsError, match=r"CLOUDFRONT_PRIVATE_KEY_PATH: .*key\.pem holds no RSA or ECDSA"):
        cloudfront_store(tmp_path / "key.pem")
    with pytest.raises(SettingsError, match=r"CLOUDFRONT_PRIVATE_KEY_PATH: .*gone cannot be read"):
        cloudfront_store(tmp_path / "gone")


def test_only_pictures_are_signed(rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(rsa_key))
    store = cloudfront_store(tmp_path / "key.pem")
    assert "Signature=" in store.url(IMAGE)
    assert "Signature=" in store.url("generated/g/j_thumb.jpg")
    assert store.url("manifests/g/j.json") == "https://cdn.example/manifests/g/j.json"
    assert store.url("generated/g/j.json") == "https://cdn.example/generated/g/j.json"


def test_a_presigned_address_names_the_region_and_the_lifetime() -> None:
    changes = {"aws_endpoint_url_s3": None, "aws_region": "eu-central-1", "url_signing": "s3", "url_lifetime_s": 600}
    url = PictureStore.from_settings(settings_for("http://127.0.0.1:9", **changes)).url(IMAGE)
    assert url.startswith("https://pictures.s3.eu-central-1.amazonaws.com/generated/g/j.jpg?")
    dotted = PictureStore.from_settings(settings_for("http://127.0.0.1:9", **changes, aws_s3_bucket="my.pictures")).url(
        IMAGE
    )
    assert dotted.startswith("https://s3.eu-central-1.amazonaws.com/my.pictures/generated/g/j.jpg?")
    assert query(url)["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert query(url)["X-Amz-Expires"] == "600"
    assert "/eu-central-1/s3/" in query(url)["X-Amz-Credential"]


def test_without_credentials_the_job_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    changes = {"aws_access_key_id": None, "aws_secret_access_key": None, "url_signing": "s3"}
    store = PictureStore.from_settings(settings_for("http://127.0.0.1:9", **changes))
    with pytest.raises(StoreUnavailable, match="credentials"):
        store.url(IMAGE)


def test_another_signature_is_not_another_event(make_manifest: MakeManifest) -> None:
    """A consumer that skips what it knows by `ce_id` must not be told of a picture twice."""
    _, manifest = make_manifest()
    events = [
        completed_event(
            manifest,
            url=f"https://cdn.example/{{}}?Signature={mark}".format,
            priority=Priority.HIGH,
            worker_id="w",
            attempt=1,
            replay_id=None,
            completed_at=timestamp(1),
        )
        for mark in ("a", "b")
    ]
    assert events[0].image_url != events[1].image_url
    assert event_id(events[0]) == event_id(events[1])


def test_the_lifetime_begins_when_the_address_is_made(rsa_key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(rsa_key))
    before = datetime.now(UTC).timestamp()
    expires = int(query(cloudfront_store(tmp_path / "key.pem", url_lifetime_s=600).url(IMAGE))["Expires"])
    assert int(before) + 600 <= expires <= datetime.now(UTC).timestamp() + 600
