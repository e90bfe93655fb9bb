"""Reading the files that hold an operator's rules: profiles and the deny list."""

from __future__ import annotations

from pathlib import Path

from worker.content.phrases import Phrases
from worker.content.rules import read_denied
from worker.errors import SettingsError
from worker.intake.admit import AdmissionRules
from worker.profiles import Profiles, load_profiles
from worker.settings import Settings


def read_rules(settings: Settings) -> AdmissionRules:
    """The rules for admission, from the files that the settings name.

    Raises:
        SettingsError: a file cannot be read, or says something wrong.
    """
    return AdmissionRules(settings, read_profiles(settings), read_deny_list(settings.content_deny_path))


def read_profiles(settings: Settings) -> Profiles | None:
    """The profiles in `PROFILES_PATH`; None where it is not set. Raises SettingsError."""
    if settings.profiles_path is None:
        return None
    return load_profiles(settings.profiles_path, settings.max_loras, settings.max_lora_weight)


def read_deny_list(path: Path | None) -> Phrases | None:
    """The phrases in the file; None where there is none. Raises SettingsError."""
    if path is None:
        return None
    try:
        return read_denied(path)
    except OSError as error:
        raise SettingsError(f"CONTENT_DENY_PATH: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"CONTENT_DENY_PATH: {path} is not UTF-8 text (byte {error.start})") from error
    except ValueError as error:
        raise SettingsError(f"CONTENT_DENY_PATH: {path}: {error}") from error
