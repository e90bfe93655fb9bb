"""Settings of `sdxl-worker gateway` (docs/gateway.md)."""

from __future__ import annotations

from pydantic import Field, SecretStr

from worker.settings.section import Section


class GatewaySettings(Section):
    """Where the gateway listens, who may use it, and what bounds it has."""

    gateway_host: str = Field(
        "127.0.0.1", description="address or name on which the gateway listens; beyond loopback it needs GATEWAY_TOKENS"
    )
    gateway_port: int = Field(8007, ge=0, le=65_535, description="port of the gateway; 0: any free port")
    gateway_metrics_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="a second port with /health, /ready and /metrics without a token, on all addresses: keep it from "
        "the outside. /metrics on GATEWAY_PORT wants a token",
    )
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
