"""The one object of all settings, composed of its sections, and how it is read."""

from __future__ import annotations

import os
from typing import Self

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from worker import settings_checks as checks
from worker.errors import SettingsError
from worker.settings.content import ContentSettings
from worker.settings.delivery import DeliverySettings
from worker.settings.engine import EngineSettings
from worker.settings.gateway import GatewaySettings
from worker.settings.http_and_logs import HttpAndLogSettings
from worker.settings.kafka import KafkaSettings, librdkafka_properties
from worker.settings.model import ModelSettings
from worker.settings.problems import source_problem, validation_problems
from worker.settings.s3 import S3Settings
from worker.settings.sources import DOTENV, SecretFiles, read_dotenv, read_secrets, secrets_dir
from worker.settings.traces import TraceSettings
from worker.settings.webhooks import WebhookSettings


# Pydantic takes the fields of the last base first: the order of messages and documents goes from Kafka to traces.
class Settings(
    TraceSettings,
    GatewaySettings,
    WebhookSettings,
    HttpAndLogSettings,
    DeliverySettings,
    ContentSettings,
    EngineSettings,
    ModelSettings,
    S3Settings,
    KafkaSettings,
    BaseSettings,
):
    """All settings of the worker and of its other processes; each stands in the section of its topic."""

    model_config = SettingsConfigDict(
        env_file=DOTENV,
        env_file_encoding="utf-8-sig",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        checks.compilation(self.compile, deterministic=self.deterministic, refiner_offload=self.refiner_offload)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The usual sources, but for secrets: `read_secrets` says what is wrong with a file."""
        folder = getattr(file_secret_settings, "secrets_dir", None)
        secrets = SecretFiles(settings_cls, read_secrets(folder, _is_setting))
        return init_settings, env_settings, dotenv_settings, secrets


def load_settings(**overrides: object) -> Settings:
    """Read the environment once.

    Raises:
        SettingsError: with one line per setting that is wrong; values are not repeated, they may be secrets.
    """
    try:
        secrets = secrets_dir()
        files = read_secrets(secrets, _is_setting) | read_dotenv()
        settings = Settings(_secrets_dir=secrets, **overrides)  # type: ignore[arg-type]
        properties = librdkafka_properties(files | dict(os.environ)) | settings.kafka_properties
        return Settings(_secrets_dir=secrets, **(overrides | {"kafka_properties": properties}))  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(validation_problems(error)) from None
    except SourceError as error:
        # Its cause quotes the value.
        raise SettingsError(source_problem(str(error))) from None


def _is_setting(name: str) -> bool:
    return name.lower() in Settings.model_fields or bool(librdkafka_properties({name: ""}))
