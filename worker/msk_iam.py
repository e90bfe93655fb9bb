"""Signing in to Amazon MSK with IAM: librdkafka asks for a token, and AWS's own signer makes it from the credentials.

The token is a presigned URL that lives for 15 minutes; librdkafka asks anew in time. Nothing is sent to AWS for it but
what the credentials themselves need (a role, a web identity).
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass, field
from typing import Any

import botocore.session
import structlog
from botocore.credentials import CredentialProvider, Credentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from worker.errors import SettingsError
from worker.settings import Settings

_log = structlog.get_logger()

# For librdkafka; the mechanism by which MSK takes IAM tokens from clients that are not Java.
CLIENT_PROPERTIES = {"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}
NO_TOKEN = "no-token"
RETRY_S = 10.0
SIGNER = "aws_msk_iam_sasl_signer"


@dataclass(frozen=True, slots=True)
class MskIamToken:
    """An `oauth_cb` of confluent-kafka. It can be pickled, since the cluster is asked by a process of its own.

    Args:
        region: of the cluster.
        keys: access key, secret key and session token; without them, AWS's usual places are looked through.
    """

    region: str
    keys: tuple[str, str, str | None] | None = field(default=None, repr=False)

    def __call__(self, _config: str) -> tuple[str, float]:
        """A token, and when it ends, in seconds since the epoch.

        Where none can be made, the log has the reason, and brokers get one that they refuse; librdkafka asks again.
        Raising here would be a SystemError in the client's constructor (tried, confluent-kafka 2.16.1 with `error_cb`).
        """
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider as Signer

        provider = _Found() if self.keys is None else _Given(self.keys)
        try:
            token, end_ms = Signer.generate_auth_token_from_credentials_provider(self.region, provider)
        except (BotoCoreError, ClientError, OSError, ValueError) as error:
            _log.warning("msk_iam_no_token", error=f"{type(error).__name__}: {error}")
            return NO_TOKEN, time.time() + RETRY_S
        return token, end_ms / 1000


class _Given(CredentialProvider):
    """Credentials that are known already."""

    def __init__(self, keys: tuple[str, str, str | None]) -> None:
        super().__init__()
        self._keys = keys

    def load(self) -> Credentials:
        return Credentials(*self._keys)


class _Found(CredentialProvider):
    """What AWS's usual places hold: environment, profile, web identity, the machine's role."""

    def load(self) -> Credentials:
        found: Credentials | None = botocore.session.Session().get_credentials()
        if found is None:
            raise NoCredentialsError
        return found


def client_properties(settings: Settings) -> dict[str, Any]:
    """librdkafka's properties for a cluster in `MSK_IAM_REGION`, with the keys of the settings where there are some.

    Raises:
        SettingsError: AWS's signer is not installed.
    """
    assert settings.msk_iam_region is not None
    if importlib.util.find_spec(SIGNER) is None:
        raise SettingsError("MSK_IAM_REGION needs the package aws-msk-iam-sasl-signer-python, which is not installed")
    keys = None
    if settings.aws_access_key_id is not None and settings.aws_secret_access_key is not None:
        session = None if settings.aws_session_token is None else settings.aws_session_token.get_secret_value()
        secret = settings.aws_secret_access_key.get_secret_value()
        keys = (settings.aws_access_key_id.get_secret_value(), secret, session)
    return {**CLIENT_PROPERTIES, "oauth_cb": MskIamToken(settings.msk_iam_region, keys)}
