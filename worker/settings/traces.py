"""Settings of traces, by the names that OpenTelemetry gives them.

The SDK reads its other variables by itself: OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and so on.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from worker import settings_checks as checks
from worker.settings.section import Section


class TraceSettings(Section):
    """Whether spans are made, and where they are sent."""

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

    @field_validator("otel_exporter_otlp_endpoint", "otel_exporter_otlp_traces_endpoint")
    @classmethod
    def _is_collector_url(cls, value: str | None) -> str | None:
        return None if value is None else checks.http_url(value)

    @model_validator(mode="after")
    def _traces_are_consistent(self) -> Self:
        if self.traces_url is not None and self.otel_exporter_otlp_protocol != "http/protobuf":
            raise ValueError("OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf (port 4318 of most collectors)")
        return self

    @property
    def traces_url(self) -> str | None:
        """Where spans are sent; None when there are to be none."""
        if self.otel_sdk_disabled:
            return None
        base = self.otel_exporter_otlp_endpoint
        return self.otel_exporter_otlp_traces_endpoint or (base and f"{base.rstrip('/')}/v1/traces")
