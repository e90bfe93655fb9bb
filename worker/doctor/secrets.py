"""Secrets are taken out of every line: a library may quote them in its errors."""

from __future__ import annotations

import re
from dataclasses import replace

from pydantic import SecretStr

from worker.doctor.finding import Finding
from worker.settings import Settings

_SECRET_PROPERTY = re.compile(r"password|secret|jaas|oauthbearer\.config|\.pem$|key\.pem")
# Blotting out every "a" would leave nothing to read.
_SHORTEST = 3
_HIDDEN = "(hidden)"


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """The secret values of the settings, the longest first."""
    values = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    values += [part for value in values for part in value.split(":")]
    values += [value for name, value in settings.kafka_properties.items() if _SECRET_PROPERTY.search(name)]
    return tuple(sorted({value for value in values if len(value) >= _SHORTEST}, key=len, reverse=True))


def hide(text: str, secrets: tuple[str, ...]) -> str:
    """The text without the secrets."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    return text


def without_secrets(finding: Finding, secrets: tuple[str, ...]) -> Finding:
    """The finding without the secrets."""
    return replace(finding, text=hide(finding.text, secrets), advice=hide(finding.advice, secrets))
