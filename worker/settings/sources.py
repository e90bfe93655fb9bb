"""Where settings come from beside the environment: `.env`, and a folder of secrets."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic_settings import BaseSettings, EnvSettingsSource

from worker import settings_checks as checks
from worker.errors import SettingsError

DOTENV = ".env"


class SecretFiles(EnvSettingsSource):
    """Secrets by the names of their files, read as if they were environment variables."""

    def __init__(self, settings_cls: type[BaseSettings], files: Mapping[str, str]) -> None:
        self._files = {name.lower(): text for name, text in files.items() if text}
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._files


def secrets_dir() -> str | None:
    """The folder of secrets. Raises SettingsError: SECRETS_DIR names something else."""
    given = os.environ.get("SECRETS_DIR")
    if given and not Path(given).is_dir():
        raise SettingsError(f"SECRETS_DIR: {given} is no folder")
    return given or ("/run/secrets" if Path("/run/secrets").is_dir() else None)


def read_secrets(folder: str | Path | None, is_setting: Callable[[str], bool]) -> dict[str, str]:
    """The secrets that are settings, by name in capitals; other files of the folder are nobody's business.

    Args:
        is_setting: whether a name in capitals is one.

    Raises:
        SettingsError: such a file cannot be read.
    """
    if folder is None:
        return {}
    try:
        files = [file for file in Path(folder).iterdir() if is_setting(file.name.upper())]
        return {file.name.upper(): checks.text_file(file).strip() for file in files}
    except ValueError as error:
        raise SettingsError(f"SECRETS_DIR: {error}") from None
    except OSError as error:
        raise SettingsError(f"SECRETS_DIR: {folder} cannot be read: {error.strerror}") from None


def read_dotenv() -> dict[str, str]:
    """What `.env` says, by name in capitals; a folder of that name is a virtual environment.

    Raises:
        SettingsError: it cannot be read, or a line is no assignment.
    """
    path = Path(DOTENV)
    try:
        if not path.is_file():
            return {}
        text = checks.text_file(path)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise SettingsError(f"{path}: line {binding.original.line} is not NAME=value")
    return {name.upper(): value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}
