"""Producers with a schema of their own and no registry: what the dead letter tells them, and the files that help."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

from worker.errors import SettingsError, UndecodableError
from worker.events.codec import make_codec
from worker.events.schemas import current, parse
from worker.events.single_object import MARKER, SingleObjectCodec
from worker.events.types import GenerationRequest
from worker.settings import Settings

TOPIC = "generation.requests.normal"
FOUR = json.dumps(
    {
        "type": "record", "name": "GenerationRequest", "namespace": "shop",
        "fields": [
            {"name": "user_id", "type": "int"}, {"name": "job_id", "type": "string"},
            {"name": "girl_id", "type": "string"}, {"name": "prompt", "type": "string"},
        ],
    }
)  # fmt: skip
RECORD = {"user_id": 7, "job_id": "order-1", "girl_id": "luna", "prompt": "a lighthouse"}
REQUEST = GenerationRequest(job_id="order-1", girl_id="luna", user_id=7, prompt="a lighthouse")


def value() -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(json.loads(FOUR)), RECORD)
    return MARKER + parse(FOUR).fingerprint + buffer.getvalue()


def settings(folder: Path | None) -> Any:
    return Settings(_env_file=None, writer_schemas_path=folder)


def read(codec: Any) -> Any:
    return codec.decode(value(), topic=TOPIC, headers=None, expected=GenerationRequest)


def test_the_reason_names_the_known_fingerprint_and_what_to_do() -> None:
    with pytest.raises(UndecodableError) as error:
        read(SingleObjectCodec())
    reason = str(error.value)
    assert parse(FOUR).fingerprint.hex() in reason
    assert f"GenerationRequest {current()[GenerationRequest].fingerprint.hex()}" in reason
    assert "GenerationStatus" not in reason  # it is no answer to a wrong request
    assert "WRITER_SCHEMAS_PATH" in reason
    assert "registry" in reason


def test_where_any_event_may_come_all_are_named_within_the_length_of_a_reason() -> None:
    with pytest.raises(UndecodableError) as error:
        SingleObjectCodec().decode_any(value(), topic=None, headers=None)
    for schema in current().values():
        assert f"{schema.name} {schema.fingerprint.hex()}" in str(error.value)


def test_a_file_makes_a_smaller_schema_readable(tmp_path: Path) -> None:
    (tmp_path / "shop.avsc").write_text(FOUR)
    (tmp_path / "README.txt").write_text("not a schema")
    assert read(make_codec(settings(tmp_path))) == REQUEST


def test_with_a_registry_too(tmp_path: Path) -> None:
    (tmp_path / "shop.avsc").write_text(FOUR)
    given = settings(tmp_path).model_copy(update={"schema_registry_url": "http://127.0.0.1:9"})
    codec = make_codec(given)
    assert read(codec) == REQUEST
    codec.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no schema of a record"),
        ('{"type": "string"}', "no schema of a record"),
        ('{"type": "record", "name": "Order", "fields": []}', "none of this service's events"),
        (FOUR.replace('"int"', '"string"'), "user_id"),
        ('{"type": "record", "name": "GenerationRequest", "fields": []}', "job_id"),
        ('{"type": "record", "name": "GenerationRequest", "fields": [{"name": "a", "type": "nothing"}]}', "nothing"),
        (None, "holds no .avsc file"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_that_could_never_be_read_with_ends_the_start(
    tmp_path: Path, text: str | bytes | None, reason: str
) -> None:
    if text is not None:
        (tmp_path / "a.avsc").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=f"WRITER_SCHEMAS_PATH: .*{reason}") as error:
        make_codec(settings(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"WRITER_SCHEMAS_PATH: .*nowhere cannot be read"):
        make_codec(settings(tmp_path / "nowhere"))
