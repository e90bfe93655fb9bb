"""Where the S3 credentials come from, and how long they last."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError

from worker.delivery.s3_credentials import load_credentials
from worker.doctor.finding import Finding, failed, ok, warning
from worker.settings import Settings, secrets_dir

SUBJECT = "credentials"
_SOON = timedelta(minutes=5)
_GIVE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (better: as files in SECRETS_DIR), or give the machine a role"


def check(settings: Settings) -> Iterator[Finding]:
    """Load them as the worker does; S3 is not asked."""
    try:
        found = load_credentials(settings, secrets_dir())()
        # Those of a role know their end only once they have been fetched.
        token = found.get_frozen_credentials().token
    except (BotoCoreError, OSError) as error:
        yield failed(SUBJECT, f"there are none ({type(error).__name__})", _GIVE)
        return
    yield _lifetime(found, token, datetime.now(UTC), _source(settings, found))


def _source(settings: Settings, found: Credentials) -> str:
    if settings.aws_access_key_id is not None:
        return "the settings"
    return str(found.method or "boto3's chain")


def _lifetime(found: Credentials, token: str | None, now: datetime, source: str) -> Finding:
    if isinstance(found, RefreshableCredentials):
        expires: datetime | None = getattr(found, "_expiry_time", None)
        if expires is None:
            return ok(SUBJECT, f"from {source}, renewed by boto3")
        left = expires - now
        if left < _SOON:
            return warning(
                SUBJECT,
                f"from {source}: they end in {_span(left)} and were not renewed",
                "see that the role's session and the metadata service are well",
            )
        return ok(SUBJECT, f"from {source}: these last {_span(left)}, and boto3 renews them")
    if token is not None:
        return warning(
            SUBJECT,
            f"from {source}: temporary ones (with a session token), whose end is not told here",
            "they are not renewed: use a role, or files in SECRETS_DIR that something rotates, which are read again",
        )
    return ok(SUBJECT, f"from {source}: a key without an end")


def _span(left: timedelta) -> str:
    minutes = max(0, int(left.total_seconds() // 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
