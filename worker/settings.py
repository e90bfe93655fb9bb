"""Every setting, in one frozen object that is read once at the start.

Names are the environment's, in lower case. Sources, first wins: arguments, environment,
`.env`, a secrets directory (`SECRETS_DIR`, default `/run/secrets` where it exists).
"""

from __future__ import annotations

import io
import os
import re
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from worker import settings_checks as checks
from worker.content.phrases import Phrases
from worker.content.rules import read_denied
from worker.errors import SettingsError
from worker.profiles import Profiles, load_profiles

# Variables that share the KAFKA_ prefix but are no librdkafka property: this object's own, those that
# Kubernetes injects for a Service named `kafka` or `kafka-…`, and those of Kafka's own Java tools.
_NOT_A_PROPERTY = re.compile(
    r"KAFKA_(BOOTSTRAP_SERVERS|GROUP_ID|GROUP_PROTOCOL|TOPIC_PREFIX|PROPERTIES|(.*_)?SERVICE_(HOST|PORT).*|(.*_)?PORT(_\d+_.*)?"
    r"|HOME|VERSION|OPTS|HEAP_OPTS|JMX_.*|LOG4J_.*|.*_OPTS)"
)


def librdkafka_properties(environ: dict[str, str]) -> dict[str, str]:
    """`KAFKA_SASL_MECHANISM=PLAIN` becomes `{"sasl.mechanism": "PLAIN"}`, and so for any property."""
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environ.items()
        if name.startswith("KAFKA_") and not _NOT_A_PROPERTY.fullmatch(name)
    }


DOTENV = ".env"
# For people, what the patterns of these settings say.
_FORMS = {
    "KAFKA_TOPIC_PREFIX": "made of letters, digits, dots, _ and -, 200 at most",
    "WORKER_ID": "made of letters, digits, dots, _ and -, 128 at most",
    "AWS_REGION": "a region's name, such as eu-west-1",
    "DEVICE": "auto, cpu, mps, cuda or cuda:N",
    "NSFW_DETECTOR": "none, skin, nudenet or module:callable",
}
DAY_S = 86_400.0


class Settings(BaseSettings):
    """The worker's settings. Times are in the unit that ends the name; sizes are in pixels.

    Every number has both bounds: a typing error of some digits must not become a wait for years.
    """

    model_config = SettingsConfigDict(
        env_file=DOTENV,
        env_file_encoding="utf-8-sig",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        allow_inf_nan=False,
    )

    # Kafka
    kafka_bootstrap_servers: str = Field("localhost:9092", description="host:port, comma separated")
    kafka_group_id: str = Field("sdxl-worker", description="consumer group", max_length=200)
    kafka_group_protocol: Literal["consumer", "classic"] = Field(
        "consumer", description="KIP-848 with the remote range assignor, or the classic protocol with range"
    )
    kafka_topic_prefix: str = Field("", description="put before every topic name", pattern=r"^[A-Za-z0-9._-]{0,200}$")
    kafka_properties: dict[str, str] = Field(
        default_factory=dict,
        description="further librdkafka properties as JSON; KAFKA_SASL_MECHANISM and the like work too",
        repr=False,
    )
    schema_registry_url: str | None = Field(None, description="Confluent framing when set, else single-object")
    schema_registry_user_info: SecretStr | None = Field(None, description="user:password for the registry")
    delivery: Literal["exactly-once", "at-least-once"] = Field(
        "exactly-once", description="at-least-once is for brokers without transactions"
    )
    worker_id: str = Field(
        default_factory=socket.gethostname,
        description="stable name of this worker; the transactional id is made from it",
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
    )

    # S3
    aws_s3_bucket: str | None = Field(None, description="bucket for pictures")
    aws_region: str = Field("us-east-1", pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$")
    aws_access_key_id: SecretStr | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_session_token: SecretStr | None = None
    aws_endpoint_url_s3: str | None = Field(None, description="for S3-compatible stores")
    cloudfront_url: str | None = Field(None, description="start of picture URLs; else the bucket's own")

    # SDXL
    sdxl_model_id: str = Field(
        "stabilityai/stable-diffusion-xl-base-1.0", description="hub id, folder or .safetensors file"
    )
    sdxl_refiner_id: str | None = Field(
        "stabilityai/stable-diffusion-xl-refiner-1.0",
        description="hub id or folder of the refiner; `none`: high_quality requests are rejected",
    )
    refiner_offload: bool = Field(
        False, description="for small cards: base UNet and refiner take turns on the device, which costs time"
    )
    sdxl_lora_path: Path | None = Field(
        None, description="folder of LoRAs, or one .safetensors file: its folder, and the default LoRA"
    )
    lora_cache_size: int = Field(8, ge=1, le=1_000, description="LoRAs kept on the device")
    device: str = Field(
        "auto", description="auto, cuda, cuda:N, mps or cpu", pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    # engine
    slots: int = Field(4, ge=1, le=64, description="rows of the UNet batch")
    deterministic: bool = Field(True, description="pad every batch to `slots`: same request, same picture")
    priority_share: float = Field(
        0.10, ge=0, le=0.3, description="share of the steps for a class that waits beyond its bound"
    )
    urgent_wait_s: float = Field(1.0, ge=0, le=DAY_S, description="bound on waiting, urgent")
    high_wait_s: float = Field(2.0, ge=0, le=DAY_S, description="bound on waiting, high")
    normal_wait_s: float = Field(5.0, ge=0, le=DAY_S, description="bound on waiting, normal")
    urgent_slowdown_max: float = Field(
        1.25, ge=1, le=100, description="lower classes may slow an urgent job's step by at most this factor"
    )
    buffer_per_partition: int = Field(16, ge=1, le=512, description="unfinished jobs before a partition pauses")
    crash_loop_limit: int = Field(3, ge=1, le=10_000, description="starts without an end before a job is given up")
    max_inference_steps: int = Field(500, ge=1, le=10_000)
    max_guidance_scale: float = Field(50.0, gt=0, le=1_000)
    min_side: int = Field(64, ge=8, le=16_384)
    max_side: int = Field(2048, ge=64, le=16_384)
    max_pixels: int = Field(1728 * 1024, ge=8 * 8, le=16_384**2, description="width × height of the largest picture")
    max_prompt_chars: int = Field(8_000, ge=1, le=1_000_000)
    max_loras: int = Field(8, ge=0, le=100)
    max_lora_weight: float = Field(5.0, gt=0, le=100)

    # content
    profiles_path: Path | None = Field(None, description="folder of profiles; girl_id chooses the file")
    nsfw_detector: str = Field(
        "none",
        description="none, skin, nudenet (not installed with the worker) or a plug-in, module:callable",
        pattern=r"^(none|skin|nudenet|[\w.]+:[\w.]+)$",
    )
    nsfw_action: Literal["reject", "blur"] = Field(
        "reject", description="for pictures that score above their threshold"
    )
    nsfw_thresholds: dict[int, float] = Field(
        default_factory=lambda: {0: 0.4, 1: 0.7, 50: 1.0},
        description="JSON: from each nsfw_level up, the highest score that passes",
    )
    content_deny_path: Path | None = Field(None, description="file of phrases that no prompt may have, one a line")

    # delivery
    upload_threads: int = Field(4, ge=1, le=64)
    flush_interval_ms: int = Field(150, ge=1, le=10_000, description="results wait at most this long")
    revoke_timeout_s: float = Field(10.0, ge=0, le=3_600, description="time for running jobs of a revoked partition")
    drain_timeout_s: float = Field(30.0, ge=0, le=DAY_S, description="time for running jobs after SIGTERM")
    checkpoint_jobs: bool = Field(
        False, description="running jobs that are handed back leave their latents in S3 for the next worker"
    )
    thumbnail_px: int = Field(256, ge=16, le=4_096, description="longest side of the thumbnail")
    jpeg_quality: int = Field(90, ge=1, le=100)

    gpu_hourly_usd: float | None = Field(None, ge=0, le=1_000_000, description="price of the device, for cost_usd")

    # HTTP and logs
    http_host: str = Field("0.0.0.0", description="an address or name of this machine; :: is IPv6 and IPv4")
    http_port: int = Field(8007, ge=0, le=65_535, description="0: any free port")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")

    # Traces. The SDK reads its other variables by itself: OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and so on.
    otel_exporter_otlp_endpoint: str | None = Field(None, description="OTLP over HTTP; spans are made only when set")
    otel_exporter_otlp_traces_endpoint: str | None = Field(None, description="the whole URL, in place of the above")
    otel_exporter_otlp_headers: SecretStr | None = Field(None, description="key=value, comma separated: the access key")
    otel_exporter_otlp_protocol: str = Field("http/protobuf", description="the only one that is built in")
    otel_service_name: str | None = Field(None, description="sdxl-worker, where the resource attributes name none")
    otel_sdk_disabled: bool = False

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        return checks.one_line(value)

    @field_validator("log_level", "log_format", "delivery", mode="before")
    @classmethod
    def _in_any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("kafka_properties", mode="before")
    @classmethod
    def _as_librdkafka_writes_it(cls, properties: Any) -> Any:
        """JSON's numbers and booleans become text; whatever else is wrong is told by its type."""
        if not isinstance(properties, dict):
            return properties
        return {
            name: str(value).lower() if isinstance(value, bool | int | float) else value
            for name, value in properties.items()
        }

    @field_validator("kafka_properties")
    @classmethod
    def _encodable(cls, properties: dict[str, str]) -> dict[str, str]:
        for name, value in properties.items():
            checks.check_utf8(name + value)
        return properties

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _are_brokers(cls, value: str) -> str:
        return checks.brokers(value)

    @field_validator("aws_s3_bucket")
    @classmethod
    def _is_bucket(cls, value: str | None) -> str | None:
        return None if value is None else checks.bucket(value)

    @field_validator("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    @classmethod
    def _is_credential(cls, value: SecretStr | None) -> SecretStr | None:
        return checks.credential(value)

    @field_validator("sdxl_refiner_id", "schema_registry_url", "cloudfront_url", "aws_endpoint_url_s3")
    @classmethod
    def _none_or_no_trailing_slash(cls, value: str | None) -> str | None:
        return None if value is None or value == "none" else value.rstrip("/")

    @field_validator("cloudfront_url")
    @classmethod
    def _has_scheme(cls, value: str | None) -> str | None:
        return value if value is None or "://" in value else f"https://{value}"

    @field_validator(
        "schema_registry_url",
        "cloudfront_url",
        "aws_endpoint_url_s3",
        "otel_exporter_otlp_endpoint",
        "otel_exporter_otlp_traces_endpoint",
    )
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        return None if value is None else checks.http_url(value)

    @field_validator("nsfw_thresholds")
    @classmethod
    def _rising(cls, thresholds: dict[int, float]) -> dict[int, float]:
        levels = sorted(thresholds)
        scores = [thresholds[level] for level in levels]
        if not levels or levels[0] != 0 or levels[-1] > 100:
            raise ValueError("the levels must begin with 0 and end at 100 at most")
        if not all(0 <= score <= 1 for score in scores) or scores != sorted(scores):
            raise ValueError("the scores must be from 0 to 1, and a higher level must not allow less")
        return thresholds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise ValueError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: set both or neither")
        if self.min_side > self.max_side:
            raise ValueError("MIN_SIDE is larger than MAX_SIDE")
        if self.min_side**2 > self.max_pixels:
            raise ValueError("MAX_PIXELS is smaller than a picture of MIN_SIDE")
        if "@" in (self.schema_registry_url or ""):
            raise ValueError("SCHEMA_REGISTRY_URL must not hold credentials: use SCHEMA_REGISTRY_USER_INFO")
        if self.traces_url is not None and self.otel_exporter_otlp_protocol != "http/protobuf":
            raise ValueError("OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf (port 4318 of most collectors)")
        if "transactional.id" in self.kafka_properties and self.delivery == "at-least-once":
            raise ValueError("transactional.id is set, but DELIVERY is at-least-once")
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
        """The usual sources, but for secrets: those are read by `_secrets`, which says what is wrong with a file."""
        folder = getattr(file_secret_settings, "secrets_dir", None)
        return init_settings, env_settings, dotenv_settings, _SecretFiles(settings_cls, _secrets(folder))

    def kafka_client_config(self) -> dict[str, str | int]:
        """What every librdkafka client needs; the properties of the operator win."""
        return {
            "bootstrap.servers": self.kafka_bootstrap_servers,
            "client.id": self.worker_id,
            **self.kafka_properties,
        }

    @property
    def traces_url(self) -> str | None:
        """Where spans are sent; None when there are to be none."""
        if self.otel_sdk_disabled:
            return None
        base = self.otel_exporter_otlp_endpoint
        return self.otel_exporter_otlp_traces_endpoint or (base and f"{base.rstrip('/')}/v1/traces")

    @property
    def denied(self) -> Phrases | None:
        """The operator's deny list, read once. Raises SettingsError."""
        return None if self.content_deny_path is None else _denied(self.content_deny_path)

    @property
    def profiles(self) -> Profiles | None:
        """The profiles of the folder, read once. Raises SettingsError."""
        if self.profiles_path is None:
            return None
        return _profiles(self.profiles_path, self.max_loras, self.max_lora_weight)

    @property
    def bucket(self) -> str:
        """The bucket for pictures. Raises SettingsError: none is set, and no name could be a default for everybody."""
        if self.aws_s3_bucket is None:
            raise SettingsError("AWS_S3_BUCKET is not set: it names the bucket for pictures")
        return self.aws_s3_bucket

    def read_files(self) -> None:
        """Read the files that settings name, so that a wrong one is told at the start. Raises SettingsError."""
        _ = self.denied, self.profiles
        if self.sdxl_lora_path is not None:
            try:
                checks.lora_path(self.sdxl_lora_path)
            except ValueError as error:
                raise SettingsError(f"SDXL_LORA_PATH: {error}") from None

    @property
    def lora_dir(self) -> Path | None:
        """The folder that LoRA names are looked up in."""
        path = self.sdxl_lora_path
        return path.parent if path is not None and path.suffix == ".safetensors" else path

    @property
    def default_lora(self) -> str | None:
        """The LoRA of requests that name none, when `SDXL_LORA_PATH` is one file."""
        path = self.sdxl_lora_path
        return path.stem if path is not None and path.suffix == ".safetensors" else None


def load_settings(**overrides: object) -> Settings:
    """Read the environment once.

    Raises:
        SettingsError: with one line per setting that is wrong; values are not repeated, they may be secrets.
    """
    try:
        secrets = _secrets_dir()
        files = _secrets(secrets) | _dotenv()
        settings = Settings(_secrets_dir=secrets, **overrides)  # type: ignore[arg-type]
        properties = librdkafka_properties(files | dict(os.environ)) | settings.kafka_properties
        return Settings(_secrets_dir=secrets, **(overrides | {"kafka_properties": properties}))  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("; ".join(_problem(e["loc"], e["type"], e["msg"]) for e in error.errors())) from None
    except SourceError as error:
        # Its cause quotes the value.
        raise SettingsError(_source_problem(str(error))) from None


class _SecretFiles(EnvSettingsSource):
    """Secrets by the names of their files, read as if they were environment variables."""

    def __init__(self, settings_cls: type[BaseSettings], files: Mapping[str, str]) -> None:
        self._files = {name.lower(): text for name, text in files.items() if text}
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._files


def _secrets_dir() -> str | None:
    """The folder of secrets. Raises SettingsError: SECRETS_DIR names something else."""
    given = os.environ.get("SECRETS_DIR")
    if given and not Path(given).is_dir():
        raise SettingsError(f"SECRETS_DIR: {given} is no folder")
    return given or ("/run/secrets" if Path("/run/secrets").is_dir() else None)


def _secrets(folder: str | Path | None) -> dict[str, str]:
    """The secrets that are settings, by name in capitals; other files of the folder are nobody's business.

    Raises:
        SettingsError: such a file cannot be read.
    """
    if folder is None:
        return {}
    try:
        files = [file for file in Path(folder).iterdir() if _is_setting(file.name.upper())]
        return {file.name.upper(): checks.text_file(file).strip() for file in files}
    except ValueError as error:
        raise SettingsError(f"SECRETS_DIR: {error}") from None
    except OSError as error:
        raise SettingsError(f"SECRETS_DIR: {folder} cannot be read: {error.strerror}") from None


def _is_setting(name: str) -> bool:
    return name.lower() in Settings.model_fields or bool(librdkafka_properties({name: ""}))


def _dotenv() -> dict[str, str]:
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


def _problem(place: tuple[int | str, ...], kind: str, message: str) -> str:
    # Pydantic marks what a validator said; where it is about several settings, it names them itself.
    message = message.removeprefix("Value error, ")
    name = ".".join([str(place[0]).upper(), *(str(part) for part in place[1:])]) if place else "settings"
    if kind == "string_pattern_mismatch":
        message = f"it must be {_FORMS[name]}"
    return f"{name}: {message}"


def _source_problem(message: str) -> str:
    """pydantic-settings speaks of its own sources; the only thing that they cannot read is JSON."""
    found = re.search(r'value for field "(\w+)"', message)
    return message if found is None else f"{found[1].upper()}: it is no valid JSON"


@cache
def _denied(path: Path) -> Phrases:
    try:
        return read_denied(path)
    except OSError as error:
        raise SettingsError(f"CONTENT_DENY_PATH: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"CONTENT_DENY_PATH: {path} is not UTF-8 text (byte {error.start})") from error
    except ValueError as error:
        raise SettingsError(f"CONTENT_DENY_PATH: {path}: {error}") from error


_profiles = cache(load_profiles)
