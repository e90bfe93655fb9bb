"""Credentials that are rotated under a running worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError

from tests.delivery.s3_server import Answer, S3Server, settings_for
from worker.delivery.s3_credentials import RELOAD_S, ReloadedCredentials, load_credentials
from worker.delivery.upload import PictureStore
from worker.errors import StoreUnavailable
from worker.settings import load_settings


def write(directory: Path, key: str, token: str | None = None) -> None:
    (directory / "AWS_ACCESS_KEY_ID").write_text(f"{key}\n")
    (directory / "AWS_SECRET_ACCESS_KEY").write_text(f"secret-of-{key}\n")
    if token is not None:
        (directory / "AWS_SESSION_TOKEN").write_text(token)


def only(s3: S3Server, key: str, code: str = "InvalidAccessKeyId", status: int = 403) -> None:
    """From now on the server accepts one access key."""
    s3.refuse = lambda request: None if request.access_key == key else Answer(status, code)


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A secrets directory; nothing of AWS is in the environment."""
    directory = tmp_path / "secrets"
    directory.mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRETS_DIR", str(directory))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return directory


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "ExpiredToken"), (403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch"), (400, "InvalidToken")],
)
def test_a_rotated_secret_is_picked_up_within_the_same_call(
    s3: S3Server, secrets: Path, status: int, code: str
) -> None:
    write(secrets, "old")
    only(s3, "old")
    store = PictureStore.from_settings(load_settings(aws_endpoint_url_s3=s3.endpoint_url, aws_s3_bucket="pictures"))
    store.put_checkpoint("checkpoints/a", b"1")
    only(s3, "new", code, status)
    with pytest.raises(StoreUnavailable, match=code):
        store.put_checkpoint("checkpoints/b", b"2")
    write(secrets, "new")
    store.put_checkpoint("checkpoints/b", b"2")
    assert s3.objects == {"checkpoints/a": b"1", "checkpoints/b": b"2"}


def test_a_rotated_shared_file_is_picked_up_too(s3: S3Server, secrets: Path) -> None:
    file = secrets.parent / "credentials"
    content = "[default]\naws_access_key_id = {0}\naws_secret_access_key = secret\n"
    file.write_text(content.format("old"))
    only(s3, "old")
    store = PictureStore.from_settings(load_settings(aws_endpoint_url_s3=s3.endpoint_url, aws_s3_bucket="pictures"))
    store.put_checkpoint("checkpoints/a", b"1")
    file.write_text(content.format("new"))
    only(s3, "new")
    store.put_checkpoint("checkpoints/a", b"2")
    assert s3.objects == {"checkpoints/a": b"2"}


@pytest.mark.parametrize("from_files", [True, False])
def test_the_session_token_is_sent(s3: S3Server, secrets: Path, from_files: bool) -> None:
    if from_files:
        write(secrets, "temporary", token="the-token")
        settings = load_settings(aws_endpoint_url_s3=s3.endpoint_url, aws_s3_bucket="pictures")
    else:
        settings = settings_for(s3.endpoint_url, aws_session_token="the-token")
    PictureStore.from_settings(settings).put_checkpoint("checkpoints/a", b"1")
    assert [request.headers["x-amz-security-token"] for request in s3.requests] == ["the-token"]


def test_the_environment_comes_before_the_files(secrets: Path) -> None:
    write(secrets, "of-the-file")
    settings = settings_for(None, aws_access_key_id="given")
    assert load_credentials(settings, str(secrets))().access_key == "given"


def test_a_file_that_is_gone_for_a_moment_leaves_the_old_credentials(secrets: Path) -> None:
    write(secrets, "old")
    settings = settings_for(None, aws_access_key_id="old", aws_secret_access_key="secret-of-old")
    now = [0.0]
    credentials = ReloadedCredentials(load_credentials(settings, str(secrets)), lambda: now[0])
    assert credentials.get_frozen_credentials().access_key == "old"
    for file in secrets.iterdir():
        file.unlink()
    secrets.rmdir()
    assert not credentials.reload()
    now[0] = RELOAD_S + 1
    assert credentials.get_frozen_credentials().access_key == "old"


def counting(*answers: Credentials | Exception) -> Callable[[], Credentials]:
    left = list(answers)

    def load() -> Credentials:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return load


def test_credentials_are_read_again_from_time_to_time() -> None:
    now = [0.0]
    credentials = ReloadedCredentials(counting(Credentials("a", "s"), Credentials("b", "s")), lambda: now[0])
    assert credentials.get_frozen_credentials().access_key == "a"
    now[0] = RELOAD_S
    assert credentials.get_frozen_credentials().access_key == "a"
    now[0] = RELOAD_S + 1
    assert credentials.get_frozen_credentials().access_key == "b"


def test_reloading_says_whether_they_are_others() -> None:
    failure = CredentialRetrievalError(provider="role", error_msg="timeout")
    credentials = ReloadedCredentials(counting(*[Credentials("a", "s")] * 2, failure, Credentials("a", "s", "t")))
    credentials.get_frozen_credentials()
    assert [credentials.reload() for _ in range(3)] == [False, False, True]


def test_none_at_all_is_said(secrets: Path) -> None:
    assert list(secrets.iterdir()) == []
    credentials = ReloadedCredentials(load_credentials(settings_for(None, **NO_KEYS), str(secrets)))
    with pytest.raises(NoCredentialsError):
        credentials.get_frozen_credentials()


NO_KEYS = {"aws_access_key_id": None, "aws_secret_access_key": None}
