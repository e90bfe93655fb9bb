"""Registries behind OAuth, mutual TLS or a path of their own (Apicurio), and framings that are refused by name."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.registry import RegistryServer
from tests.security.certificates import write_certificates
from tests.security.tokens import TokenEndpoint
from worker.errors import RegistryUnavailable, SettingsError, UndecodableError
from worker.events.codec import make_codec
from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationCancellation
from worker.settings import Settings, load_settings

TOPIC = "generation.cancellations"
EVENT = GenerationCancellation(job_id="job-1")
GLUE = [b"\x03\x00" + bytes(16) + b"x", b"\x03\x05" + bytes(16) + b"x"]


def settings(url: str | None, properties: dict[str, Any] | None = None) -> Settings:
    return Settings(_env_file=None, schema_registry_url=url, schema_registry_properties=properties or {})


def round_trip(given: Settings) -> Any:
    codec = make_codec(given)
    try:
        value, headers = codec.encode(EVENT, topic=TOPIC)
        assert value.startswith(b"\x00")
        return codec.decode(value, topic=TOPIC, headers=headers, expected=GenerationCancellation)
    finally:
        codec.close()


def oauth(endpoint: TokenEndpoint, secret: str = "secret") -> dict[str, str]:
    return {
        "bearer.auth.credentials.source": "OAUTHBEARER",
        "bearer.auth.client.id": "client",
        "bearer.auth.client.secret": secret,
        "bearer.auth.scope": "registry",
        "bearer.auth.issuer.endpoint.url": endpoint.url,
    }


def test_oauth() -> None:
    with TokenEndpoint("token-1") as endpoint, RegistryServer(bearer="token-1") as registry:
        assert round_trip(settings(registry.url, oauth(endpoint))) == EVENT
        assert endpoint.grants[0]["scope"] == ["registry"]


def test_a_registry_that_refuses_the_token_is_waited_for() -> None:
    with (
        TokenEndpoint("token-2") as endpoint,
        RegistryServer(bearer="token-1") as registry,
        pytest.raises(RegistryUnavailable, match="refuses"),
    ):
        round_trip(settings(registry.url, oauth(endpoint)))


def test_a_token_endpoint_that_refuses_is_waited_for() -> None:
    with TokenEndpoint() as endpoint, RegistryServer(bearer="token-1") as registry:
        with pytest.raises(RegistryUnavailable) as error:
            round_trip(settings(registry.url, oauth(endpoint, "wrong")))
        assert "wrong" not in str(error.value)


def test_a_static_token() -> None:
    properties = {"bearer.auth.credentials.source": "STATIC_TOKEN", "bearer.auth.token": "token-1"}
    with RegistryServer(bearer="token-1") as registry:
        assert round_trip(settings(registry.url, properties)) == EVENT


def test_mutual_tls(tmp_path: Path) -> None:
    files = write_certificates(tmp_path, "registry", "worker")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate("registry"), files.key("registry"))
    context.load_verify_locations(files.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    properties = {
        "ssl.ca.location": str(files.authority),
        "ssl.certificate.location": str(files.certificate("worker")),
        "ssl.key.location": str(files.key("worker")),
    }
    with RegistryServer(tls=context) as registry:
        assert round_trip(settings(registry.url, properties)) == EVENT
        with pytest.raises(RegistryUnavailable):
            round_trip(settings(registry.url, {"ssl.ca.location": str(files.authority)}))


def test_a_registry_below_a_path_as_apicurio_has_it() -> None:
    with RegistryServer(prefix="/apis/ccompat/v7") as registry:
        assert round_trip(settings(registry.url)) == EVENT
        assert registry.subjects() == [f"{TOPIC}-value"]


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"bearer.auth.credentials.source": "OAUTHBEARER"}, "bearer.auth.client.secret"),
        ({"nope": "hidden"}, "Unrecognized properties: nope"),
        ({"ssl.ca.location": "/nowhere/ca.pem"}, "No such file.*ssl.ca.location"),
        ({"bearer.auth.credentials.source": "hidden"}, "bearer.auth.credentials.source"),
    ],
)
def test_wrong_properties_end_the_start_with_one_line(properties: dict[str, str], reason: str) -> None:
    with pytest.raises(SettingsError, match=f"SCHEMA_REGISTRY_PROPERTIES: .*{reason}") as error:
        make_codec(settings("http://127.0.0.1:9", properties))
    assert "\n" not in str(error.value)
    assert "hidden" not in str(error.value)


def test_properties_are_read_from_json_and_need_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEMA_REGISTRY_PROPERTIES", json.dumps({"bearer.auth.token": "hidden"}))
    with pytest.raises(SettingsError, match="SCHEMA_REGISTRY_PROPERTIES needs SCHEMA_REGISTRY_URL") as error:
        load_settings()
    assert "hidden" not in str(error.value)
    monkeypatch.setenv("SCHEMA_REGISTRY_URL", "http://127.0.0.1:9")
    assert load_settings().schema_registry_properties == {"bearer.auth.token": "hidden"}
    assert "hidden" not in repr(load_settings())


@pytest.mark.parametrize("value", GLUE)
@pytest.mark.parametrize("with_registry", [False, True])
def test_glues_framing_is_refused_by_name(value: bytes, *, with_registry: bool) -> None:
    codec = make_codec(settings("http://127.0.0.1:9")) if with_registry else SingleObjectCodec()
    with pytest.raises(UndecodableError, match="AWS Glue"):
        codec.decode(value, topic=TOPIC, headers=None, expected=GenerationCancellation)
    codec.close()
