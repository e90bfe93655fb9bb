"""Settings: their sources, what is rejected, and that secrets are never printed."""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from worker.errors import SettingsError
from worker.lora_folder import lora_file
from worker.rule_files import read_rules
from worker.settings import Settings, librdkafka_properties, load_settings
from worker.settings.section import Section

HUSH = "hush-hush-0451"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty environment and folder, and an empty secrets directory."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.startswith("KAFKA_"):
            monkeypatch.delenv(name)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_defaults_are_the_guides() -> None:
    settings = load_settings()
    assert settings.sdxl_model_id == "stabilityai/stable-diffusion-xl-base-1.0"
    assert (settings.http_port, settings.slots, settings.priority_share) == (8007, None, 0.1)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("AWS_S3_BUCKET", "b", "aws_s3_bucket", "b"),
        ("AWS_REGION", "eu-west-1", "aws_region", "eu-west-1"),
        ("AWS_ENDPOINT_URL_S3", "http://s3.example:8333/", "aws_endpoint_url_s3", "http://s3.example:8333"),
        ("CLOUDFRONT_URL", "https://cdn.example/", "cloudfront_url", "https://cdn.example"),
        ("CLOUDFRONT_URL", "cdn.example", "cloudfront_url", "https://cdn.example"),
        ("SDXL_MODEL_ID", "/models/sdxl", "sdxl_model_id", "/models/sdxl"),
        ("SDXL_REFINER_ID", "none", "sdxl_refiner_id", None),
        ("SDXL_LORA_PATH", "/loras", "sdxl_lora_path", Path("/loras")),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2", "kafka_bootstrap_servers", "a:1,b:2"),
        ("SCHEMA_REGISTRY_URL", "http://registry.example/", "schema_registry_url", "http://registry.example"),
        ("SLOTS", "8", "slots", 8),
        ("slots", "8", "slots", 8),
        ("DETERMINISTIC", "false", "deterministic", False),
        ("GPU_HOURLY_USD", "", "gpu_hourly_usd", None),
    ],
)
def test_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == expected


def test_any_librdkafka_property_can_be_set() -> None:
    assert librdkafka_properties(
        {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SSL_CA_LOCATION": "/ca", "KAFKA_SASL_KERBEROS_SERVICE_NAME": "k"}
    ) == {"sasl.mechanism": "PLAIN", "ssl.ca.location": "/ca", "sasl.kerberos.service.name": "k"}


@pytest.mark.parametrize(
    "name",
    [
        "KAFKA_SERVICE_HOST", "KAFKA_SERVICE_PORT", "KAFKA_SERVICE_PORT_CLIENT", "KAFKA_PORT", "KAFKA_PORT_9092_TCP",
        "KAFKA_PORT_9092_TCP_ADDR", "KAFKA_UI_SERVICE_HOST", "KAFKA_UI_SERVICE_PORT_HTTP", "KAFKA_UI_PORT",
        "KAFKA_BROKER_PORT_9092_TCP_PROTO", "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_GROUP_ID", "KAFKA_TOPIC_PREFIX",
        "KAFKA_HEAP_OPTS", "KAFKA_JMX_PORT", "KAFKA_HOME", "MY_KAFKA_X",
    ],
)  # fmt: skip
def test_other_variables_of_that_prefix_are_no_properties(name: str) -> None:
    assert librdkafka_properties({name: "tcp://10.0.0.1:9092"}) == {}


def test_properties_come_from_every_place_and_the_nearest_wins(
    monkeypatch: pytest.MonkeyPatch, nothing_set: Path
) -> None:
    secrets = nothing_set / "secrets"
    (secrets / "kafka_sasl_password").write_text(HUSH + "\n")
    (secrets / "KAFKA_SASL_USERNAME").write_text("from the file")
    (nothing_set / ".env").write_text("KAFKA_SASL_USERNAME=from dotenv\nKAFKA_SASL_MECHANISM=PLAIN\nSLOTS=3\n")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("KAFKA_DEBUG", "broker")
    monkeypatch.setenv("KAFKA_PROPERTIES", json.dumps({"debug": "all", "client.id": "me"}))
    settings = load_settings()
    assert settings.slots == 3
    assert settings.kafka_client_config() == {
        "bootstrap.servers": "localhost:9092",
        "client.id": "me",
        "debug": "all",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.password": HUSH,
        "sasl.username": "from dotenv",
    }


def test_arguments_win_over_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOTS", "3")
    assert load_settings(slots=5).slots == 5


def test_secrets_come_from_files(nothing_set: Path) -> None:
    (nothing_set / "secrets" / "aws_access_key_id").write_text("id")
    (nothing_set / "secrets" / "aws_secret_access_key").write_text(HUSH)
    secret = load_settings().aws_secret_access_key
    assert secret is not None
    assert secret.get_secret_value() == HUSH


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "SCHEMA_REGISTRY_USER_INFO"):
        monkeypatch.setenv(name, HUSH)
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", HUSH)
    settings = load_settings()
    assert settings.kafka_client_config()["sasl.password"] == HUSH
    assert HUSH not in repr(settings) + str(settings) + f"{settings}"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"AWS_SECRET_ACCESS_KEY": HUSH}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": HUSH}, "AWS_SECRET_ACCESS_KEY"),
        ({"MIN_SIDE": "1024", "MAX_SIDE": "512"}, "MIN_SIDE"),
        ({"DELIVERY": "at-least-once", "KAFKA_TRANSACTIONAL_ID": HUSH}, "transactional.id"),
        ({"DELIVERY": "at-least-once", "KAFKA_PROPERTIES": '{"transactional.id": "x"}'}, "transactional.id"),
        ({"DELIVERY": HUSH}, "DELIVERY"),
        ({"SLOTS": HUSH}, "SLOTS"),
        ({"SLOTS": "0"}, "SLOTS"),
        ({"PRIORITY_SHARE": "0.5"}, "PRIORITY_SHARE"),  # two classes would leave the urgent one nothing
        ({"WORKER_ID": f"{HUSH}/x"}, "WORKER_ID"),
        ({"WORKER_ID": "a\n"}, "WORKER_ID"),
        ({"KAFKA_PROPERTIES": f"{{'{HUSH}'"}, "KAFKA_PROPERTIES"),
        ({"KAFKA_PROPERTIES": f'["{HUSH}"]'}, "KAFKA_PROPERTIES"),
        ({"KAFKA_PROPERTIES": f'{{"sasl.password": ["{HUSH}"]}}'}, "KAFKA_PROPERTIES"),
        ({"SCHEMA_REGISTRY_URL": f"https://me:{HUSH}@registry.example"}, "SCHEMA_REGISTRY_URL"),
        ({"HTTP_PORT": "70000"}, "HTTP_PORT"),
        ({"KAFKA_GROUP_PROTOCOL": HUSH}, "KAFKA_GROUP_PROTOCOL"),
        ({"URL_SIGNING": HUSH}, "URL_SIGNING"),
        ({"URL_SIGNING": "cloudfront"}, "CLOUDFRONT_URL, CLOUDFRONT_KEY_PAIR_ID"),
        ({"URL_SIGNING": "CloudFront", "CLOUDFRONT_URL": "cdn.example"}, "CLOUDFRONT_PRIVATE_KEY_PATH"),
        ({"CLOUDFRONT_KEY_PAIR_ID": "K2JCJMDEHXQW5F"}, "URL_SIGNING=cloudfront"),
        ({"CLOUDFRONT_KEY_PAIR_ID": f"{HUSH}/"}, "CLOUDFRONT_KEY_PAIR_ID: it must be the id"),
        ({"URL_SIGNING": "s3", "CLOUDFRONT_URL": "cdn.example"}, "CLOUDFRONT_URL"),
        ({"URL_SIGNING": "s3", "URL_LIFETIME_S": "604801"}, "URL_LIFETIME_S"),
    ],
)
def test_wrong_settings_stop_the_start_with_one_line_that_names_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert HUSH not in "".join(traceback.format_exception(caught.value))


def test_every_wrong_setting_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOTS", "many")
    monkeypatch.setenv("HTTP_PORT", "any")
    with pytest.raises(SettingsError, match=r"SLOTS: .*; HTTP_PORT: "):
        load_settings()


def test_no_section_hides_a_check_of_another() -> None:
    """Pydantic keeps one validator for each name, so of two sections with the same name one would lose its check."""
    sections = [base for base in Settings.__mro__ if issubclass(base, Section) and base is not Section]
    names = [name for section in sections for name in vars(section) if re.fullmatch(r"_?[a-z]\w*(?<!_)", name)]
    own = [name for name in names if not hasattr(BaseSettings, name)]
    assert {"_s3_is_consistent", "_are_brokers", "kafka_client_config", "lora_dir"} <= set(own)
    assert [name for name in own if own.count(name) > 1] == []


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_settings().slots = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "folder", "default"),
    [
        (None, None, None),
        ("/loras", "/loras", None),
        ("/loras/house.style.safetensors", "/loras", "house.style"),
        ("house.safetensors", ".", "house"),
        ("/loras/House.SAFETENSORS", "/loras", "House"),
    ],
)
def test_a_lora_path_is_a_folder_or_the_default_lora_in_it(
    path: str | None, folder: str | None, default: str | None
) -> None:
    settings = load_settings(sdxl_lora_path=path)
    assert settings.lora_dir == (None if folder is None else Path(folder))
    assert settings.default_lora == default


def test_a_lora_file_with_its_suffix_in_capitals_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "House.SAFETENSORS"
    settings = load_settings(sdxl_lora_path=path)
    with pytest.raises(SettingsError, match="is no file"):
        settings.check_paths()
    path.touch()
    settings.check_paths()
    assert lora_file(tmp_path, "House") == path
    (tmp_path / "House.safetensors").touch()
    with pytest.raises(SettingsError, match="another file of the same name"):
        settings.check_paths()


URLS = (
    "SCHEMA_REGISTRY_URL",
    "AWS_ENDPOINT_URL_S3",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)


def test_no_bucket_is_everybodys_default() -> None:
    assert load_settings().aws_s3_bucket is None
    with pytest.raises(SettingsError, match="AWS_S3_BUCKET is not set"):
        _ = load_settings().bucket


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (HUSH.encode("utf-16"), "UTF-16"),
        (b"\x80" + HUSH.encode(), "not UTF-8"),
        (HUSH.encode() + b"\0", "null bytes"),
    ],
)
def test_a_secret_that_is_no_text_is_named(nothing_set: Path, content: bytes, told: str) -> None:
    (nothing_set / "secrets" / "aws_access_key_id").write_bytes(content)
    with pytest.raises(SettingsError, match=told) as caught:
        load_settings()
    assert "aws_access_key_id" in str(caught.value)
    assert HUSH not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_a_secret_that_cannot_be_read_is_named(nothing_set: Path, make: Callable[[Path], None]) -> None:
    make(nothing_set / "secrets" / "kafka_sasl_password")
    with pytest.raises(SettingsError, match=r"SECRETS_DIR: .*kafka_sasl_password cannot be read"):
        load_settings()


def test_other_files_among_the_secrets_are_left_alone(nothing_set: Path) -> None:
    (nothing_set / "secrets" / "keystore.jks").write_bytes(b"\xfe\xed\xfe\xed")
    (nothing_set / "secrets" / "..data").mkdir()
    (nothing_set / "secrets" / "slots").write_text("5\n")
    assert load_settings().slots == 5


def test_an_empty_secret_file_counts_as_unset(nothing_set: Path) -> None:
    """Generators of Secrets write such files for what a site does not use."""
    (nothing_set / "secrets" / "AWS_ACCESS_KEY_ID").write_text("\n")
    assert load_settings().aws_access_key_id is None


@pytest.mark.parametrize("make", [lambda _path: None, lambda path: path.write_text("x")])
def test_a_secrets_dir_that_is_none_is_told(
    monkeypatch: pytest.MonkeyPatch, nothing_set: Path, make: Callable[[Path], None]
) -> None:
    make(nothing_set / "none")
    monkeypatch.setenv("SECRETS_DIR", str(nothing_set / "none"))
    with pytest.raises(SettingsError, match=r"SECRETS_DIR: .*none is no folder"):
        load_settings()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("SLOTS=3\n".encode("utf-16"), r"\.env is UTF-16 text"),
        ("SLOTS=3\n".encode("utf-16-le"), r"\.env is not text: it holds null bytes"),
        ("CLOUDFRONT_URL=caf\xe9\n".encode("latin-1"), r"\.env is not UTF-8 text \(byte 18\)"),
        (b"SLOTS=3\n= 4\n", r"\.env: line 2 is not NAME=value"),
    ],
)
def test_a_dotenv_that_cannot_be_understood_is_told(nothing_set: Path, content: bytes, told: str) -> None:
    (nothing_set / ".env").write_bytes(content)
    with pytest.raises(SettingsError, match=told):
        load_settings()


def test_a_byte_order_mark_does_not_hide_the_first_setting(nothing_set: Path) -> None:
    (nothing_set / ".env").write_bytes(b"\xef\xbb\xbfSLOTS=3\nKAFKA_DEBUG=broker\n")
    settings = load_settings()
    assert (settings.slots, settings.kafka_properties) == (3, {"debug": "broker"})


def test_a_virtual_environment_called_dotenv_is_no_file_of_settings(nothing_set: Path) -> None:
    (nothing_set / ".env").mkdir()
    assert load_settings().slots is None


NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if field.annotation in (int, float, int | None, float | None) and field.annotation is not bool
]


def test_the_numbers_are_found() -> None:
    assert {"slots", "drain_timeout_s", "gpu_hourly_usd", "max_pixels"} <= set(NUMBERS)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "-1", "9" * 30, "1_0_", "0x10"])
def test_every_number_has_both_bounds(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(SettingsError, match=rf"^{name.upper()}: ") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ['{"0": NaN}', '{"0": Infinity}', '{"0": -1}', '{"0": 1e300}', '{"x": 1}', "[]", "{}"]
)
def test_thresholds_have_bounds(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NSFW_THRESHOLDS", value)
    with pytest.raises(SettingsError, match=r"^NSFW_THRESHOLDS"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((url, bad) for url in URLS for bad in ("localhost:8333", "ftp://host", "http://", "http://a b", "http://h:port")),
        *((url, "http://host:99999") for url in URLS),
        *(("AWS_S3_BUCKET", bad) for bad in ("s3://pictures", "pictures/", "my pictures", " b", "b\n", "http://h/b")),
        *(("KAFKA_BOOTSTRAP_SERVERS", bad) for bad in ("http://h:9092", "h:port", "h:0", "h:70000", "a:1,,b:1")),
        ("KAFKA_TOPIC_PREFIX", "a b/"),
        ("AWS_REGION", "us east"),
        ("DEVICE", "gpu"),
        ("AWS_ACCESS_KEY_ID", "key\n"),
        ("AWS_SECRET_ACCESS_KEY", "key "),
        ("AWS_SESSION_TOKEN", "to ken"),
        ("SCHEMA_REGISTRY_USER_INFO", "me:you\n"),
        ("HTTP_HOST", "host\n"),
        ("KAFKA_GROUP_ID", os.fsdecode(b"\xff")),
        ("KAFKA_GROUP_ID", "g" * 1_000),
        ("KAFKA_PROPERTIES", '{"sasl.password": null}'),
        ("KAFKA_PROPERTIES", '{"sasl.password": {}}'),
        ("KAFKA_PROPERTIES", "'"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_form_is_told_by_name_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name}[:.]") as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert "pattern" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1, SASL_SSL://b.example:2,[::1]:9092,host"),
        ("AWS_S3_BUCKET", "Old_bucket.with.dots"),
        ("AWS_S3_BUCKET", "arn:aws:s3:eu-west-1:123456789012:accesspoint/pictures"),
        ("AWS_ENDPOINT_URL_S3", "http://[::1]:8333"),
        ("KAFKA_SSL_KEY_PEM", "-----BEGIN KEY-----\nabc\n-----END KEY-----"),
        ("DEVICE", "cuda:1"),
        ("AWS_REGION", "auto"),
        ("LOG_LEVEL", "INFO"),
    ],
)
def test_a_value_of_the_right_form_passes(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    load_settings()


def test_numbers_in_the_properties_become_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PROPERTIES", '{"socket.timeout.ms": 1000, "enable.ssl.certificate.verification": false}')
    assert load_settings().kafka_properties == {
        "socket.timeout.ms": "1000",
        "enable.ssl.certificate.verification": "false",
    }


@pytest.mark.parametrize("kind", ["missing", "file", "folder"])
@pytest.mark.parametrize("name", ["PROFILES_PATH", "CONTENT_DENY_PATH", "SDXL_LORA_PATH"])
def test_a_path_that_leads_nowhere_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, nothing_set: Path, name: str, kind: str
) -> None:
    path = nothing_set / ("x.safetensors" if kind == "folder" and name == "SDXL_LORA_PATH" else "x")
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"\xff")
    monkeypatch.setenv(name, str(path))
    settings = load_settings()
    look = settings.check_paths if name == "SDXL_LORA_PATH" else partial(read_rules, settings)
    with pytest.raises(SettingsError, match=rf"{name}: .*x"):
        look()
