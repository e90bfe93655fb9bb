"""Settings of `sdxl-worker webhooks` (docs/webhooks.md); a worker does not look at them."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from worker import settings_checks as checks
from worker.settings.section import Section


class WebhookSettings(Section):
    """Where results are sent to, how they are signed, and how patient the sender is."""

    webhook_url: SecretStr | None = Field(
        None, description="where each result is sent to as an HTTP POST; required by `webhooks`"
    )
    webhook_secret: SecretStr | None = Field(
        None, description="secret that signs the requests: whsec_ and base64 of 24 to 64 bytes; required by `webhooks`"
    )
    webhook_secret_previous: SecretStr | None = Field(
        None, description="a second secret that signs them too, while receivers change from it to WEBHOOK_SECRET"
    )
    webhook_group_id: str = Field("sdxl-webhooks", description="consumer group of the webhook senders", max_length=200)
    webhook_concurrency: int = Field(8, ge=1, le=256, description="largest number of requests at once")
    webhook_timeout_s: float = Field(10.0, gt=0, le=120, description="seconds that a receiver has for its answer")
    webhook_max_pause_s: float = Field(
        60.0, ge=1, le=3_600, description="longest pause between attempts while the receiver fails, in seconds"
    )

    @field_validator("webhook_url")
    @classmethod
    def _is_receiver(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            checks.http_url(value.get_secret_value())
        return value

    @field_validator("webhook_secret", "webhook_secret_previous")
    @classmethod
    def _is_signing_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            checks.signing_secret(value.get_secret_value())
        return value
