"""The token for Amazon MSK, as far as it can be seen without AWS, and the settings around it."""

from __future__ import annotations

import base64
import pickle
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from worker import kafka_config, msk_iam
from worker.client import connection
from worker.errors import SettingsError
from worker.events.single_object import SingleObjectCodec
from worker.settings import load_settings
from worker.topics import Topics

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hidden-secret", "AWS_SESSION_TOKEN": "session"}


def client_config() -> dict[str, Any]:
    return kafka_config.admin_config(load_settings())


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("MSK_IAM_REGION", "eu-central-1")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_the_token_is_a_presigned_connect_of_the_settings_keys() -> None:
    config = client_config()
    assert (config["security.protocol"], config["sasl.mechanism"]) == ("SASL_SSL", "OAUTHBEARER")
    token, ends = config["oauth_cb"]("")
    url = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    query = parse_qs(url.query)
    assert url.hostname == "kafka.eu-central-1.amazonaws.com"
    assert query["Action"] == ["kafka-cluster:Connect"]
    assert query["X-Amz-Credential"][0].startswith("AKIDEXAMPLE/")
    assert query["X-Amz-Security-Token"] == ["session"]
    assert 0 < ends - time.time() <= 900


@pytest.mark.usefixtures("environment")
def test_the_callback_goes_to_another_process_and_shows_no_secret() -> None:
    callback = client_config()["oauth_cb"]
    assert pickle.loads(pickle.dumps(callback)) == callback
    assert "hidden-secret" not in repr(callback)


def test_without_credentials_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    token, ends = msk_iam.MskIamToken("eu-west-1")("")
    assert token == msk_iam.NO_TOKEN
    assert ends - time.time() <= msk_iam.RETRY_S
    assert "NoCredentialsError" in capsys.readouterr().out
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    token, _ = msk_iam.MskIamToken("eu-west-1")("")
    assert b"AKIDOTHER" in base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def test_properties_of_the_operator_win(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    assert client_config()["security.protocol"] == "SASL_PLAINTEXT"


@pytest.mark.usefixtures("environment")
def test_the_command_line_signs_in_too() -> None:
    config = connection.Connection(load_settings(), Topics(), SingleObjectCodec()).config()
    assert config["oauth_cb"] == client_config()["oauth_cb"]


def test_another_mechanism_beside_it_is_a_contradiction(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KAFKA_SASL_MECHANISM", "PLAIN")
    with pytest.raises(SettingsError, match=r"MSK_IAM_REGION .*KAFKA_SASL_MECHANISM"):
        load_settings()


def test_a_region_that_is_none_is_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MSK_IAM_REGION", "eu west")
    with pytest.raises(SettingsError, match="MSK_IAM_REGION: it must be a region's name"):
        load_settings()


def test_without_the_signer_one_line_names_it(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(msk_iam, "SIGNER", "not_installed_here")
    with pytest.raises(SettingsError, match="aws-msk-iam-sasl-signer-python"):
        client_config()


def test_without_the_setting_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSK_IAM_REGION", raising=False)
    assert not {"oauth_cb", "security.protocol"} & client_config().keys()
    assert "oauth_cb" not in connection.Connection(load_settings(), Topics(), SingleObjectCodec()).config()
