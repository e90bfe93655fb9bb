"""docs/contract.md and docs/asyncapi.yaml say what the code does."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastavro.schema import to_parsing_canonical_form

from devtools.contract import asyncapi, page
from devtools.contract.channels import (
    CHANNELS,
    HEADERS,
    TOPICS,
    dead_letter_headers,
    dead_letter_meaning,
    event_headers,
)
from devtools.local.npm import node_project
from devtools.local.process import ProcessError
from worker.errors import ErrorCode
from worker.events.schemas import current, file_stem, schema_dir
from worker.events.single_object import SingleObjectCodec
from worker.events.types import JOB_EVENT_TYPES, Event, GenerationRequest

CHECKER = Path(asyncapi.__file__).with_name("asyncapi_check")


def crc_64_avro(data: bytes) -> int:
    """By the algorithm of Avro's specification, bit by bit."""
    crc = 0xC15D213AA4D7A795
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xC15D213AA4D7A795 if crc & 1 else 0)
    return crc


class TestPage:
    def test_it_is_up_to_date(self) -> None:
        assert page.PAGE.read_text() == page.page(), "run python -m devtools.contract"

    @pytest.mark.parametrize("cls", JOB_EVENT_TYPES)
    def test_fingerprint_and_wire_bytes_are_those_of_the_specification(self, cls: type[Event]) -> None:
        schema = json.loads((schema_dir() / f"{file_stem(cls)}.avsc").read_text())
        crc = crc_64_avro(to_parsing_canonical_form(schema).encode())
        wire = (b"\xc3\x01" + crc.to_bytes(8, "little")).hex(" ").upper()
        assert f"`{crc:#018x}` | `{wire}` |" in page.page()

    @pytest.mark.parametrize("cls", JOB_EVENT_TYPES)
    def test_every_field_has_a_row_with_its_default(self, cls: type[Event]) -> None:
        section = page.page().partition(f"### {cls.__name__}\n")[2].partition("\n#")[0]
        for field in json.loads(current()[cls].text)["fields"]:
            [row] = [line for line in section.splitlines() if line.startswith(f"| `{field['name']}` |")]
            default = row.split(" | ")[2].strip()
            assert default == (f"`{json.dumps(field['default'])}`" if "default" in field else ""), row

    @pytest.mark.parametrize("code", ErrorCode)
    def test_every_error_code_has_a_sentence(self, code: ErrorCode) -> None:
        sentence = page.first_sentence(code)
        assert sentence.endswith((".", ":")) or " " in sentence
        assert len(sentence) > 15

    def test_the_bytes_of_the_example_are_the_example(self) -> None:
        data = bytes.fromhex(page.page().split("```")[-2])
        codec = SingleObjectCodec()
        assert codec.decode(data, topic="t", headers=None, expected=GenerationRequest) == GenerationRequest(
            **page.EXAMPLE
        )


class TestChannels:
    def test_every_topic_is_described_once(self) -> None:
        assert sorted(channel.topic for channel in CHANNELS) == sorted(TOPICS.all)

    def test_every_header_that_is_written_is_described_and_none_beside_them(self) -> None:
        written = {name for cls in JOB_EVENT_TYPES for name in event_headers(cls)}
        assert written == HEADERS.keys()
        assert all(map(dead_letter_meaning, dead_letter_headers()))


class TestAsyncApi:
    def test_it_is_up_to_date(self) -> None:
        assert asyncapi.DOCUMENT.read_text() == asyncapi.document_text(), "run python -m devtools.contract"

    def test_every_reference_leads_somewhere(self) -> None:
        document = yaml.safe_load(asyncapi.DOCUMENT.read_text())
        found = list(references(document))
        assert len(found) == 3 * len(CHANNELS)
        for reference in found:
            place = document
            for key in reference.removeprefix("#/").split("/"):
                place = place[key]
            assert place

    def test_payloads_are_the_schemas_of_the_repository(self) -> None:
        messages = yaml.safe_load(asyncapi.DOCUMENT.read_text())["components"]["messages"]
        for cls in JOB_EVENT_TYPES:
            written = messages[cls.__name__]["payload"]["schema"]
            assert written == json.loads((schema_dir() / f"{file_stem(cls)}.avsc").read_text())

    @pytest.mark.server
    def test_the_official_parser_reads_it(self, tmp_path: Path) -> None:
        checker = asyncapi_checker()
        done = check(checker, asyncapi.DOCUMENT)
        assert done.returncode == 0, done.stdout + done.stderr
        for channel in CHANNELS:
            assert f"{channel.action} {channel.topic} " in done.stdout
        broken = tmp_path / "broken.yaml"
        broken.write_text(asyncapi.DOCUMENT.read_text().replace("#/components/messages/DeadLetter", "#/nowhere"))
        assert check(checker, broken).returncode == 1


def check(checker: Path, document: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", "check.js", str(document)]
    return subprocess.run(command, cwd=checker, capture_output=True, text=True, check=False, timeout=120)


def asyncapi_checker() -> Path:
    """AsyncAPI's parser from npm; skips, with the reason, where Node or the registry is missing."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("AsyncAPI's parser was not run: Node and npm are not installed")
    try:
        return node_project(CHECKER)
    except ProcessError as error:
        pytest.skip(f"AsyncAPI's parser was not run: {error}")


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for child in value.values():
                yield from references(child)
        case list():
            for child in value:
                yield from references(child)
