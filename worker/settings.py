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
from pathlib import Path
from typing import Any, Literal, Self

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from worker import settings_checks as checks
from worker.errors import SettingsError
from worker.job import SAFE_NAME
from worker.lora_folder import is_lora_file, lora_file
from worker.presets import NO_PRESET, preset_named
from worker.prompt_syntax import PromptSyntax

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


DOTENV = ".env"
# For people, what the patterns of these settings say.
_FORMS = {
    "KAFKA_TOPIC_PREFIX": "made of letters, digits, dots, _ and -, 200 at most",
    "WORKER_ID": "made of letters, digits, dots, _ and -, 128 at most",
    "CLOUDFRONT_KEY_PAIR_ID": "the id of a public key, such as K2JCJMDEHXQW5F",
    "AWS_REGION": "a region's name, such as eu-west-1",
    "MSK_IAM_REGION": "a region's name, such as eu-west-1",
    "DEVICE": "auto, cpu, mps, cuda or cuda:N",
    "GATEWAY_PAGE_SIZE": "width x height in pixels, such as 1024x1024",
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
    kafka_bootstrap_servers: str = Field(
        "localhost:9092", description="Kafka brokers to start from, as host:port, comma separated"
    )
    kafka_group_id: str = Field("sdxl-worker", description="consumer group that the workers join", max_length=200)
    kafka_group_protocol: Literal["consumer", "classic"] = Field(
        "consumer",
        description="`consumer`: the KIP-848 protocol with the broker's assignor `uniform`; "
        "`classic`: the old protocol with the client's assignor `cooperative-sticky`",
    )
    kafka_topic_prefix: str = Field(
        "", description="text that is put before every topic name", pattern=r"^[A-Za-z0-9._-]{0,200}$"
    )
    input: Literal["requests", "work"] = Field(
        "requests",
        description="`requests`: the worker reads the request topics; `work`: those that `sdxl-worker dispatch` fills",
    )
    dispatch_group_id: str = Field(
        "sdxl-dispatch", description="consumer group that the dispatchers join", max_length=200
    )
    kafka_properties: dict[str, str] = Field(
        default_factory=dict,
        description="further librdkafka properties, as a JSON object of texts",
        repr=False,
    )
    msk_iam_region: str | None = Field(
        None,
        description="region of an Amazon MSK cluster, such as eu-west-1; when set, clients sign in with IAM over TLS, "
        "with the AWS_ keys or the machine's role (docs/security.md)",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$",
    )
    schema_registry_url: str | None = Field(
        None,
        description="schema registry; when set, events are written with Confluent framing, otherwise "
        "in Avro single-object encoding",
    )
    schema_registry_user_info: SecretStr | None = Field(None, description="user:password for the schema registry")
    schema_registry_properties: dict[str, str] = Field(
        default_factory=dict,
        description="further properties of confluent-kafka's registry client, for TLS (`ssl.…`) and OAuth "
        "(`bearer.auth.…`), as a JSON object of texts (docs/security.md)",
        repr=False,
    )
    writer_schemas_path: Path | None = Field(
        None,
        description="folder of .avsc files: further schemas of producers that write single-object encoding with a "
        "schema of their own (docs/contract.md)",
    )
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
    aws_s3_bucket: str | None = Field(None, description="bucket for pictures, manifests and checkpoints; required")
    aws_region: str = Field("us-east-1", description="region of the bucket", pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$")
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
    url_signing: Literal["none", "cloudfront", "s3"] = Field(
        "none",
        description="picture URLs in events: `none`, plain; `cloudfront`, signed with the key pair below; `s3`, "
        "presigned with the worker's own S3 credentials",
    )
    url_lifetime_s: int = Field(
        86_400,
        ge=60,
        le=10 * 366 * 86_400,
        description="seconds for which a signed URL can be used; with `s3` at most 604800, and never longer than the "
        "credentials",
    )
    cloudfront_key_pair_id: str | None = Field(
        None, description="id of the CloudFront public key", pattern=r"^[A-Za-z0-9]{1,64}$"
    )
    cloudfront_private_key_path: Path | None = Field(
        None, description="file of the private key that belongs to it, PEM without a passphrase"
    )

    # SDXL
    sdxl_model_id: str = Field(
        "stabilityai/stable-diffusion-xl-base-1.0",
        description="base model: Hugging Face hub id (`owner/name`, or `owner/name@revision` to pin it), folder or one "
        ".safetensors file",
    )
    sdxl_refiner_id: str | None = Field(
        "stabilityai/stable-diffusion-xl-refiner-1.0",
        description="refiner: hub id, folder or file, as for the base; with `none`, requests with high_quality are "
        "rejected",
    )
    sdxl_preset: str = Field(
        NO_PRESET,
        description="preset of a base model that was distilled to few steps (docs/presets.md); it replaces "
        "scheduler, steps and guidance of all requests; `none`: they are drawn as they ask",
    )
    sdxl_preset_lora: str | None = Field(
        None,
        description="LoRA in SDXL_LORA_PATH that makes the base a few-step model; every job that is drawn with "
        "SDXL_PRESET gets it, at weight 1",
    )
    refiner_offload: bool = Field(
        False, description="keep only one of base UNet and refiner on the device at a time: saves memory, costs time"
    )
    sdxl_lora_path: Path | None = Field(
        None,
        description="folder of LoRA files; or one .safetensors file, which is then the default LoRA "
        "and its folder the folder of LoRAs",
    )
    sdxl_embeddings_path: Path | None = Field(
        None,
        description="folder of textual-inversion files, which a prompt uses by naming them (docs/prompts.md)",
    )
    lora_cache_size: int = Field(8, ge=1, le=1_000, description="number of LoRAs that are kept on the device")
    device: str = Field(
        "auto",
        description="device: auto, cuda, cuda:N, mps or cpu",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision of the model; `auto`: bfloat16 or else float16 on a GPU, float32 on a CPU"
    )

    # engine
    slots: int | None = Field(
        None,
        ge=1,
        le=64,
        description="override: pad every UNet call to 2 x SLOTS samples, as version 1.0 did with SLOTS=4. Unset, a "
        "table in the worker gives the size for card, precision and picture (docs/scheduling.md), which suits "
        "nearly everyone: remove SLOTS when you upgrade",
    )
    deterministic: bool = Field(
        True,
        description="give every UNet call for pictures of one size the same shape, so that the same request gives "
        "the same picture whatever else runs; off: calls of 1 to SLOTS rows (4 if unset), as it goes fastest",
    )
    priority_share: float = Field(
        0.10, ge=0, le=0.3, description="guaranteed share of the steps for a lane that waits beyond its bound"
    )
    urgent_wait_s: float = Field(
        1.0,
        ge=0,
        le=DAY_S,
        description="seconds after which a waiting urgent job counts as overdue and its lane earns PRIORITY_SHARE",
    )
    high_wait_s: float = Field(2.0, ge=0, le=DAY_S, description="the same for the high lane")
    normal_wait_s: float = Field(5.0, ge=0, le=DAY_S, description="the same for the normal lane")
    urgent_slowdown_max: float = Field(
        1.25,
        ge=1,
        le=100,
        description="rows of lower lanes join the UNet call of an urgent job while they slow its "
        "step by at most this factor",
    )
    buffer_per_partition: int = Field(
        16, ge=1, le=MAX_BUFFER, description="number of unfinished jobs of a partition at which it is paused"
    )
    crash_loop_limit: int = Field(
        3, ge=1, le=10_000, description="number of starts without an end after which a job fails as crash_loop"
    )
    max_inference_steps: int = Field(500, ge=1, le=10_000, description="largest num_inference_steps of a request")
    max_guidance_scale: float = Field(50.0, gt=0, le=1_000, description="largest guidance_scale of a request")
    min_side: int = Field(64, ge=8, le=16_384, description="smallest width and height of a picture, in pixels")
    max_side: int = Field(2048, ge=64, le=16_384, description="largest width and height of a picture, in pixels")
    max_pixels: int = Field(
        1728 * 1024, ge=8 * 8, le=16_384**2, description="largest width × height of a picture, in pixels"
    )
    max_prompt_chars: int = Field(
        8_000,
        ge=1,
        le=1_000_000,
        description="largest number of characters of a prompt, and of a negative prompt, as sent",
    )
    max_loras: int = Field(
        8, ge=0, le=100, description="largest number of LoRAs of a job, those of its profile included"
    )
    max_lora_weight: float = Field(5.0, gt=0, le=100, description="largest weight of a LoRA, positive or negative")

    # content
    profiles_path: Path | None = Field(
        None,
        description="folder of profiles, of which girl_id chooses one; when unset, prompts are drawn as they are sent",
    )
    prompt_syntax: PromptSyntax = Field(
        PromptSyntax.LITERAL,
        description="how brackets in prompts are read: `literal`, as text; `a1111`, as weights such as (word:1.3) "
        "and [word], with BREAK and \\( for a bracket (docs/prompts.md)",
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
        10.0, ge=0, le=180, description="seconds that running jobs of a revoked partition may go on"
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, le=DAY_S, description="seconds that running jobs may go on after SIGTERM"
    )
    checkpoint_jobs: bool = Field(
        False,
        description="store the latents of a running job in S3 when it is released, so that the next "
        "worker goes on from there",
    )
    thumbnail_px: int = Field(256, ge=16, le=4_096, description="longest side of the thumbnail, in pixels")
    jpeg_quality: int = Field(90, ge=1, le=100, description="quality of JPEG and WebP pictures, 1 to 100")

    gpu_hourly_usd: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="price of the device in dollars an hour; fills cost_usd of completed events",
    )

    # HTTP and logs
    http_host: str = Field(
        "0.0.0.0", description="address or name on which /health, /ready and /metrics listen; `::` takes IPv6 and IPv4"
    )
    http_port: int = Field(8007, ge=0, le=65_535, description="port of /health, /ready and /metrics; 0: any free port")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="`json`: one JSON object per line; `console`: text for people; `auto`: console on a "
        "terminal, JSON otherwise",
    )

    # Webhooks. The settings of `sdxl-worker webhooks` (docs/webhooks.md); a worker does not look at them.
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

    # gateway
    gateway_host: str = Field(
        "127.0.0.1", description="address or name on which the gateway listens; beyond loopback it needs GATEWAY_TOKENS"
    )
    gateway_port: int = Field(8007, ge=0, le=65_535, description="port of the gateway; 0: any free port")
    gateway_tokens: SecretStr | None = Field(
        None,
        description="who may use the gateway: name:token, comma separated or one a line; a token has 16 characters or "
        "more, and its name stays the same when it is exchanged",
    )
    gateway_cors_origins: str = Field(
        "",
        description="origins whose pages may call the gateway, such as https://app.example.com, comma separated; "
        "`*`: all",
    )
    gateway_max_body_bytes: int = Field(
        262_144, ge=1_024, le=16_777_216, description="largest body of a request to the gateway, in bytes"
    )
    gateway_rate_per_s: float = Field(
        10.0,
        gt=0,
        le=100_000,
        description="requests a second of each token that send something to Kafka or ask S3, beyond which the answer "
        "is 429",
    )
    gateway_burst: int = Field(
        50, ge=1, le=1_000_000, description="how many of these requests may come at once after a pause"
    )
    gateway_max_jobs: int = Field(
        10_000, ge=1, le=200_000, description="jobs that the gateway remembers, the latest ones"
    )
    gateway_max_streams: int = Field(
        1_000, ge=1, le=100_000, description="open event streams, beyond which the answer is 503"
    )
    gateway_page_size: str = Field(
        "1024x1024",
        description="size that the form of the gateway's page begins with, as width x height in pixels",
        pattern=r"^\d{2,5}x\d{2,5}$",
    )
    gateway_send_timeout_s: float = Field(
        10.0,
        ge=0.1,
        le=300,
        description="seconds that Kafka has to acknowledge a request, beyond which the answer is 503",
    )

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

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        return checks.one_line(value)

    @field_validator("log_level", "log_format", "delivery", "prompt_syntax", "url_signing", mode="before")
    @classmethod
    def _in_any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("kafka_properties", "schema_registry_properties", mode="before")
    @classmethod
    def _as_librdkafka_writes_it(cls, properties: Any) -> Any:
        """JSON's numbers and booleans become text; whatever else is wrong is told by its type."""
        if not isinstance(properties, dict):
            return properties
        return {
            name: str(value).lower() if isinstance(value, bool | int | float) else value
            for name, value in properties.items()
        }

    @field_validator("kafka_properties", "schema_registry_properties")
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

    @field_validator("sdxl_preset")
    @classmethod
    def _is_preset(cls, value: str) -> str:
        preset_named(value)
        return value

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
        checks.url_signing(
            self.url_signing,
            self.url_lifetime_s,
            cloudfront_url=self.cloudfront_url,
            key_given=(self.cloudfront_key_pair_id is not None, self.cloudfront_private_key_path is not None),
        )
        if self.sdxl_preset_lora is not None and (self.sdxl_preset == NO_PRESET or self.sdxl_lora_path is None):
            raise ValueError("SDXL_PRESET_LORA needs SDXL_PRESET and SDXL_LORA_PATH")
        if self.min_side > self.max_side:
            raise ValueError("MIN_SIDE is larger than MAX_SIDE")
        if self.min_side**2 > self.max_pixels:
            raise ValueError("MAX_PIXELS is smaller than a picture of MIN_SIDE")
        if self.schema_registry_properties and self.schema_registry_url is None:
            raise ValueError("SCHEMA_REGISTRY_PROPERTIES needs SCHEMA_REGISTRY_URL")
        mechanism = self.kafka_properties.get("sasl.mechanism", self.kafka_properties.get("sasl.mechanisms"))
        if self.msk_iam_region is not None and mechanism not in (None, "OAUTHBEARER"):
            raise ValueError("MSK_IAM_REGION signs in by OAUTHBEARER, but KAFKA_SASL_MECHANISM names another mechanism")
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
        """What every librdkafka client needs, but for `kafka_config.sign_in`; the properties of the operator win."""
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
    def bucket(self) -> str:
        """The bucket for pictures. Raises SettingsError: none is set, and no name could be a default for everybody."""
        if self.aws_s3_bucket is None:
            raise SettingsError("AWS_S3_BUCKET is not set: it names the bucket for pictures")
        return self.aws_s3_bucket

    def check_paths(self) -> None:
        """Look at the paths of LoRAs and embeddings, so that a wrong one is told at the start. Raises SettingsError."""
        if self.sdxl_lora_path is not None:
            try:
                checks.lora_path(self.sdxl_lora_path)
            except ValueError as error:
                raise SettingsError(f"SDXL_LORA_PATH: {error}") from None
        if self.sdxl_embeddings_path is not None:
            try:
                any(self.sdxl_embeddings_path.iterdir())
            except OSError as error:
                raise SettingsError(
                    f"SDXL_EMBEDDINGS_PATH: {self.sdxl_embeddings_path} is not a readable folder: {error.strerror}"
                ) from None
        if self.sdxl_preset_lora is not None and self.lora_dir is not None:
            file = lora_file(self.lora_dir, self.sdxl_preset_lora)
            if not SAFE_NAME.fullmatch(self.sdxl_preset_lora) or not file.is_file():
                raise SettingsError(f"SDXL_PRESET_LORA: there is no file {file}")

    @property
    def lora_dir(self) -> Path | None:
        """The folder that LoRA names are looked up in."""
        path = self.sdxl_lora_path
        return path.parent if path is not None and is_lora_file(path) else path

    @property
    def default_lora(self) -> str | None:
        """The LoRA of requests that name none, when `SDXL_LORA_PATH` is one file."""
        path = self.sdxl_lora_path
        return path.stem if path is not None and is_lora_file(path) else None


def load_settings(**overrides: object) -> Settings:
    """Read the environment once.

    Raises:
        SettingsError: with one line per setting that is wrong; values are not repeated, they may be secrets.
    """
    try:
        secrets = secrets_dir()
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


def secrets_dir() -> str | None:
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
