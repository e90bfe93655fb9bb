"""Every setting, in one frozen object that is read once at the start.

Names are the environment's, in lower case. Sources, first wins: arguments, environment,
`.env`, a secrets directory (`SECRETS_DIR`, default `/run/secrets` where it exists).
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Literal, Self

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from worker.errors import SettingsError

# Variables that share the KAFKA_ prefix but are no librdkafka property: this object's own, those that
# Kubernetes injects for a Service named `kafka` or `kafka-…`, and those of Kafka's own Java tools.
_NOT_A_PROPERTY = re.compile(
    r"KAFKA_(BOOTSTRAP_SERVERS|GROUP_ID|GROUP_PROTOCOL|TOPIC_PREFIX|PROPERTIES|(.*_)?SERVICE_(HOST|PORT).*|(.*_)?PORT(_\d+_.*)?"
    r"|HOME|VERSION|OPTS|HEAP_OPTS|JMX_.*|LOG4J_.*|.*_OPTS)"
)


# The completion map of a partition must fit into the metadata of its committed offset (4,096 bytes at the broker's
# default): 280 unfinished records, each between long runs of finished ones, take 3,072 bytes.
MAX_BUFFER = 256


def librdkafka_properties(environ: dict[str, str]) -> dict[str, str]:
    """`KAFKA_SASL_MECHANISM=PLAIN` becomes `{"sasl.mechanism": "PLAIN"}`, and so for any property."""
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environ.items()
        if name.startswith("KAFKA_") and not _NOT_A_PROPERTY.fullmatch(name)
    }


class Settings(BaseSettings):
    """The worker's settings. Times are in the unit that ends the name; sizes are in pixels."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True)

    # Kafka
    kafka_bootstrap_servers: str = Field(
        "localhost:9092", description="Kafka brokers to start from, as host:port, comma separated"
    )
    kafka_group_id: str = Field("sdxl-worker", description="consumer group that the workers join")
    kafka_group_protocol: Literal["consumer", "classic"] = Field(
        "consumer",
        description="`consumer`: the KIP-848 protocol with the range assignor of the broker; "
        "`classic`: the old protocol with the range assignor of the client",
    )
    kafka_topic_prefix: str = Field("", description="text that is put before every topic name")
    kafka_properties: dict[str, str] = Field(
        default_factory=dict,
        description="further librdkafka properties, as a JSON object of texts",
        repr=False,
    )
    schema_registry_url: str | None = Field(
        None,
        description="schema registry; when set, events are written with Confluent framing, otherwise "
        "in Avro single-object encoding",
    )
    schema_registry_user_info: SecretStr | None = Field(None, description="user:password for the schema registry")
    delivery: Literal["exactly-once", "at-least-once"] = Field(
        "exactly-once",
        description="`at-least-once` is for brokers without transactions; consumers may then see a result twice",
    )
    worker_id: str = Field(
        default_factory=socket.gethostname,
        description="name of this worker, unique and the same after a restart; the transactional id is made from it",
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
    )

    # S3
    aws_s3_bucket: str = Field("dream-ai-media", description="bucket for pictures, manifests and checkpoints")
    aws_region: str = Field("us-east-1", description="region of the bucket")
    aws_access_key_id: SecretStr | None = Field(
        None, description="access key; when unset, boto3 looks for credentials by itself"
    )
    aws_secret_access_key: SecretStr | None = Field(None, description="secret key that belongs to the access key")
    aws_session_token: SecretStr | None = Field(None, description="session token of temporary credentials")
    aws_endpoint_url_s3: str | None = Field(None, description="address of an S3-compatible store; not needed for AWS")
    cloudfront_url: str | None = Field(
        None,
        description="start of the picture URLs, https:// unless it names another scheme; when unset, "
        "the bucket's own address",
    )

    # SDXL
    sdxl_model_id: str = Field(
        "stabilityai/stable-diffusion-xl-base-1.0",
        description="base model: Hugging Face hub id, folder or one .safetensors file",
    )
    sdxl_refiner_id: str | None = Field(
        "stabilityai/stable-diffusion-xl-refiner-1.0",
        description="refiner: hub id or folder; with `none`, requests with high_quality are rejected",
    )
    refiner_offload: bool = Field(
        False, description="keep only one of base UNet and refiner on the device at a time: saves memory, costs time"
    )
    sdxl_lora_path: Path | None = Field(
        None,
        description="folder of LoRA files; or one .safetensors file, which is then the default LoRA "
        "and its folder the folder of LoRAs",
    )
    lora_cache_size: int = Field(8, ge=1, description="number of LoRAs that are kept on the device")
    device: str = Field("auto", description="device: auto, cuda, cuda:N, mps or cpu")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision of the model; `auto`: bfloat16 or else float16 on a GPU, float32 on a CPU"
    )

    # engine
    slots: int = Field(4, ge=1, le=64, description="largest number of rows (jobs) in one UNet call")
    deterministic: bool = Field(
        True,
        description="pad every UNet call to SLOTS rows, so that the same request gives the same "
        "picture whatever else runs",
    )
    priority_share: float = Field(
        0.10, ge=0, le=0.3, description="guaranteed share of the steps for a lane that waits beyond its bound"
    )
    urgent_wait_s: float = Field(
        1.0,
        ge=0,
        description="seconds after which a waiting urgent job counts as overdue and its lane earns PRIORITY_SHARE",
    )
    high_wait_s: float = Field(2.0, ge=0, description="the same for the high lane")
    normal_wait_s: float = Field(5.0, ge=0, description="the same for the normal lane")
    urgent_slowdown_max: float = Field(
        1.25,
        ge=1,
        description="rows of lower lanes join the UNet call of an urgent job while they slow its "
        "step by at most this factor",
    )
    buffer_per_partition: int = Field(
        16, ge=1, le=MAX_BUFFER, description="number of unfinished jobs of a partition at which it is paused"
    )
    crash_loop_limit: int = Field(
        3, ge=1, description="number of starts without an end after which a job fails as crash_loop"
    )
    max_inference_steps: int = Field(500, ge=1, description="largest num_inference_steps of a request")
    max_guidance_scale: float = Field(50.0, gt=0, description="largest guidance_scale of a request")
    min_side: int = Field(64, ge=8, description="smallest width and height of a picture, in pixels")
    max_side: int = Field(2048, ge=64, description="largest width and height of a picture, in pixels")
    max_pixels: int = Field(1728 * 1024, description="largest width × height of a picture, in pixels")
    max_prompt_chars: int = Field(
        8_000, ge=1, description="largest number of characters of a prompt, and of a negative prompt, as sent"
    )
    max_loras: int = Field(8, ge=0, description="largest number of LoRAs of a job, those of its profile included")
    max_lora_weight: float = Field(5.0, gt=0, description="largest weight of a LoRA, positive or negative")

    # content
    profiles_path: Path | None = Field(
        None,
        description="folder of profiles, of which girl_id chooses one; when unset, prompts are drawn as they are sent",
    )
    nsfw_detector: str = Field(
        "none",
        description="what scores finished pictures: none, skin, nudenet (not installed with the "
        "worker) or a plug-in, module:callable",
        pattern=r"^(none|skin|nudenet|[\w.]+:[\w.]+)$",
    )
    nsfw_action: Literal["reject", "blur"] = Field(
        "reject", description="what happens to a picture that scores above its threshold"
    )
    nsfw_thresholds: dict[int, float] = Field(
        default_factory=lambda: {0: 0.4, 1: 0.7, 50: 1.0},
        description="from each nsfw_level up, the highest score that passes; the levels must begin with 0",
    )
    content_deny_path: Path | None = Field(None, description="file of phrases that no prompt may contain, one a line")

    # delivery
    upload_threads: int = Field(4, ge=1, le=64, description="threads that look up stored results, encode and upload")
    flush_interval_ms: int = Field(
        150,
        ge=1,
        le=10_000,
        description="milliseconds that a result waits at most for others, to be published with them",
    )
    revoke_timeout_s: float = Field(
        10.0, ge=0, description="seconds that running jobs of a revoked partition may go on"
    )
    drain_timeout_s: float = Field(30.0, ge=0, description="seconds that running jobs may go on after SIGTERM")
    checkpoint_jobs: bool = Field(
        False,
        description="store the latents of a running job in S3 when it is released, so that the next "
        "worker goes on from there",
    )
    thumbnail_px: int = Field(256, ge=16, description="longest side of the thumbnail, in pixels")
    jpeg_quality: int = Field(90, ge=1, le=100, description="quality of JPEG and WebP pictures, 1 to 100")

    gpu_hourly_usd: float | None = Field(
        None, ge=0, description="price of the device in dollars an hour; fills cost_usd of completed events"
    )

    # HTTP and logs
    http_host: str = Field("0.0.0.0", description="address on which /health, /ready and /metrics listen")
    http_port: int = Field(8007, ge=0, le=65_535, description="port of /health, /ready and /metrics; 0: any free port")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_format: Literal["json", "console"] = Field("json", description="one JSON object per line, or text for people")

    # Traces. The SDK reads its other variables by itself: OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and so on.
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector (OTLP over HTTP), to which /v1/traces is added; without "
        "it no spans are made",
    )
    otel_exporter_otlp_traces_endpoint: str | None = Field(
        None, description="the whole URL for traces, in place of the endpoint above"
    )
    otel_exporter_otlp_headers: SecretStr | None = Field(
        None, description="headers for the collector, such as an access key: key=value, comma separated"
    )
    otel_exporter_otlp_protocol: str = Field(
        "http/protobuf", description="protocol to the collector; http/protobuf is the only one that is built in"
    )
    otel_service_name: str | None = Field(
        None, description="service name in traces; sdxl-worker, where OTEL_RESOURCE_ATTRIBUTES names none either"
    )
    otel_sdk_disabled: bool = Field(False, description="make no spans, whatever else is set")

    @field_validator("sdxl_refiner_id", "schema_registry_url", "cloudfront_url", "aws_endpoint_url_s3")
    @classmethod
    def _none_or_no_trailing_slash(cls, value: str | None) -> str | None:
        return None if value is None or value == "none" else value.rstrip("/")

    @field_validator("cloudfront_url")
    @classmethod
    def _has_scheme(cls, value: str | None) -> str | None:
        return value if value is None or "://" in value else f"https://{value}"

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
        if "@" in (self.schema_registry_url or ""):
            raise ValueError("SCHEMA_REGISTRY_URL must not hold credentials: use SCHEMA_REGISTRY_USER_INFO")
        if self.traces_url is not None and self.otel_exporter_otlp_protocol != "http/protobuf":
            raise ValueError("OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf (port 4318 of most collectors)")
        if "transactional.id" in self.kafka_properties and self.delivery == "at-least-once":
            raise ValueError("transactional.id is set, but DELIVERY is at-least-once")
        return self

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
    secrets = os.environ.get("SECRETS_DIR") or ("/run/secrets" if Path("/run/secrets").is_dir() else None)
    try:
        settings = Settings(_secrets_dir=secrets, **overrides)  # type: ignore[arg-type]
        properties = librdkafka_properties(_variables(secrets)) | settings.kafka_properties
        return Settings(_secrets_dir=secrets, **(overrides | {"kafka_properties": properties}))  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in e['loc']).upper() or 'settings'}: {e['msg']}" for e in error.errors()
        ]
        raise SettingsError("; ".join(problems)) from None
    except SourceError as error:
        # Its cause quotes the value.
        raise SettingsError(str(error)) from None


def _variables(secrets: str | None) -> dict[str, str]:
    """Everything that could be a librdkafka property, from all the places that settings come from."""
    files = Path(secrets).glob("*") if secrets else ()
    from_files = {file.name.upper(): file.read_text().strip() for file in files if file.is_file()}
    from_dotenv = {name.upper(): value or "" for name, value in dotenv_values(".env").items()}
    return from_files | from_dotenv | dict(os.environ)
