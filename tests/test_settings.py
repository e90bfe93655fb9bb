"""Settings: their sources, what is rejected, and that secrets are never printed."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.errors import SettingsError
from worker.settings import Settings, librdkafka_properties, load_settings

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
    assert settings.aws_s3_bucket == "dream-ai-media"
    assert settings.sdxl_model_id == "stabilityai/stable-diffusion-xl-base-1.0"
    assert (settings.http_port, settings.slots, settings.priority_share) == (8007, 4, 0.1)


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
        ({"KAFKA_PROPERTIES": f"{{'{HUSH}'"}, "kafka_properties"),
        ({"KAFKA_PROPERTIES": f'["{HUSH}"]'}, "KAFKA_PROPERTIES"),
        ({"KAFKA_PROPERTIES": f'{{"sasl.password": ["{HUSH}"]}}'}, "KAFKA_PROPERTIES"),
        ({"SCHEMA_REGISTRY_URL": f"https://me:{HUSH}@registry.example"}, "SCHEMA_REGISTRY_URL"),
        ({"HTTP_PORT": "70000"}, "HTTP_PORT"),
        ({"KAFKA_GROUP_PROTOCOL": HUSH}, "KAFKA_GROUP_PROTOCOL"),
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
    ],
)
def test_a_lora_path_is_a_folder_or_the_default_lora_in_it(
    path: str | None, folder: str | None, default: str | None
) -> None:
    settings = load_settings(sdxl_lora_path=path)
    assert settings.lora_dir == (None if folder is None else Path(folder))
    assert settings.default_lora == default
