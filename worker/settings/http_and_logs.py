"""Settings of the worker's own HTTP port, and of its log."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from worker import settings_checks as checks
from worker.settings.section import Section


class HttpAndLogSettings(Section):
    """Where /health, /ready and /metrics are, and what is logged in which form."""

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

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _log_in_any_case(cls, value: Any) -> Any:
        return checks.in_any_case(value)
