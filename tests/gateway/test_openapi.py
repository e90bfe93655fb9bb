"""The OpenAPI document says what is true: schemathesis asks what it promises, and it is held to the code."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.gateway.asking import ask
from tests.gateway.world import TOKEN, make_world
from worker.events.types import GenerationRequest
from worker.gateway.openapi import request_schema
from worker.settings import Settings

WORLD = make_world(tokens=f"web:{TOKEN}")
WORLD.log.status("known", "completed")
# Streams do not end, and schemathesis would wait for the end; test_streams.py reads them.
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", WORLD.app).exclude(path_regex="/events$")

# Rules that JSON Schema has no words for; a request that breaks one is refused though the schema allows it.
UNSAYABLE = (
    "exclude each other",
    "had passed",
    "_thumb",
    "width x height",
    "names one LoRA twice",
    "nsfw_level above 0",
)


def test_the_body_has_the_fields_and_defaults_of_a_request() -> None:
    described: dict[str, Any] = request_schema(Settings(_env_file=None))["properties"]
    assert described.keys() == {field.name for field in dataclasses.fields(GenerationRequest)}
    for field in dataclasses.fields(GenerationRequest):
        if field.default is not dataclasses.MISSING:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert described[field.name].get("default") == default, field.name


def test_every_path_is_described() -> None:
    document = ask(WORLD, "GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/generate", "/status/{job_id}", "/jobs", "/jobs/{job_id}", "/jobs/{job_id}/events", "/events", "/queue",
        "/profiles", "/health", "/ready",
    }  # fmt: skip
    assert document["paths"]["/generate"]["post"]["security"] == [{"token": []}]
    assert document["paths"]["/health"]["get"]["security"] == []


def test_nothing_of_the_gateway_imports_torch() -> None:
    code = "import sys, worker.gateway.server, worker.cli.gateway; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@SCHEMA.parametrize()
@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
def test_schemathesis_finds_nothing(case: Any) -> None:
    response = case.call(headers={"Authorization": f"Bearer {TOKEN}", "Host": "localhost"})
    told = response.json().get("error", "") if response.status_code == 422 else ""
    unsayable = [positive_data_acceptance] if any(word in told for word in UNSAYABLE) else []
    case.validate_response(response, excluded_checks=unsayable)
