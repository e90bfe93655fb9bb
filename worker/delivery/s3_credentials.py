"""AWS credentials that are read again, so that a rotated secret is picked up without a restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import botocore.session
import structlog
from botocore.credentials import CredentialProvider, Credentials, ReadOnlyCredentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError

from worker.settings import Settings

log = structlog.get_logger(__name__)

# How often credentials without an expiry are read again; those that are refused are read again at once.
RELOAD_S = 300.0

Load = Callable[[], Credentials]


class ReloadedCredentials(Credentials):
    """What botocore signs requests with. Thread-safe.

    Args:
        load: reads the credentials anew.
    """

    def __init__(self, load: Load, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__("", "")
        self._load = load
        self._clock = clock
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._loaded_at = 0.0

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The credentials for the next request. Raises BotoCoreError: there are none, or they cannot be read."""
        with self._lock:
            if self._current is None:
                self._read()
            # Those that expire, of a role for instance, are renewed by botocore.
            expire = isinstance(self._current, RefreshableCredentials)
            if not expire and self._clock() - self._loaded_at > RELOAD_S:
                self._read_if_possible()
            current = self._current
        assert current is not None
        return current.get_frozen_credentials()

    def reload(self) -> bool:
        """Read them again, since they were refused; True when they are others now."""
        with self._lock:
            before = None if self._current is None else _secrets(self._current)
            self._read_if_possible()
            changed = self._current is not None and _secrets(self._current) != before
        if changed:
            log.info("s3_credentials_changed")
        return changed

    def _read(self) -> None:
        self._current = self._load()
        self._loaded_at = self._clock()

    def _read_if_possible(self) -> None:
        try:
            self._read()
        except BotoCoreError as error:
            # In the middle of a rotation; S3 says whether the old ones are still good.
            self._loaded_at = self._clock()
            log.warning("s3_credentials_unreadable", reason=type(error).__name__)


class StaticProvider(CredentialProvider):
    """Puts given credentials before all others of a botocore session."""

    METHOD = CANONICAL_NAME = "sdxl-worker"

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        """The given credentials."""
        return self._credentials


def load_credentials(settings: Settings, secrets_dir: str | None) -> Load:
    """How the credentials of these settings are read: from the secrets directory, if that is where the settings have
    them from, else from the settings, else by boto3's chain (environment, shared files, roles).
    """
    if settings.aws_access_key_id is None or settings.aws_secret_access_key is None:
        return _from_chain
    token = settings.aws_session_token
    given = Credentials(
        settings.aws_access_key_id.get_secret_value(),
        settings.aws_secret_access_key.get_secret_value(),
        token.get_secret_value() if token else None,
    )
    if secrets_dir is None:
        return lambda: given
    directory = Path(secrets_dir)
    try:
        in_files = _secrets(_from_files(directory, given)) == _secrets(given)
    except BotoCoreError:
        in_files = False
    # The environment and `.env` come before the directory, so other values there are not in use.
    return (lambda: _from_files(directory, given)) if in_files else (lambda: given)


def _from_files(directory: Path, given: Credentials) -> Credentials:
    """Raises CredentialRetrievalError."""
    try:
        values = {file.name.lower(): file.read_text().strip() for file in directory.iterdir() if _is_ours(file)}
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialRetrievalError(provider="SECRETS_DIR", error_msg=type(error).__name__) from error
    return Credentials(
        values.get("aws_access_key_id") or given.access_key,
        values.get("aws_secret_access_key") or given.secret_key,
        values.get("aws_session_token") or None,
    )


def _is_ours(file: Path) -> bool:
    return file.name.lower().startswith("aws_") and file.is_file()


def _from_chain() -> Credentials:
    # A new session, since an old one has cached what it found.
    found: Credentials | None = botocore.session.Session().get_credentials()
    if found is None:
        raise NoCredentialsError
    return found


def _secrets(credentials: Credentials) -> tuple[str | None, str | None, str | None]:
    frozen = credentials.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token
