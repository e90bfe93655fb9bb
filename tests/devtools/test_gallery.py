"""The demo's page for given events: escaping, relative paths, and every way in which a job may end."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from devtools.demo.files import clear, fetch_pictures, file_name, object_key, write_events
from devtools.demo.gallery import render
from devtools.demo.requests import UNDECODABLE, UNDECODABLE_ID
from devtools.local.seaweedfs import SeaweedFS
from tests.events.strategies import sample
from worker.client.connection import Record
from worker.errors import ErrorCode
from worker.events.types import Event, GenerationCompleted, GenerationFailed, GenerationRequest, Lora, Priority

EVIL = "<script>alert('x')</script> & \"quotes\""


class Page(HTMLParser):
    """Tags, links and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def record(topic: str = "generation.completed", **changes: Any) -> Record:
    plain = {"topic": topic, "partition": 1, "offset": 2, "key": b"k", "value": b"v", "headers": [], "timestamp_ms": 3}
    return Record(**plain | changes)  # type: ignore[arg-type]


def completed(job_id: str, **fields: Any) -> GenerationCompleted:
    bucket = "http://127.0.0.1:8333/bucket"
    urls = {
        "image_url": f"{bucket}/generated/girl/{job_id}.jpg",
        "thumbnail_url": f"{bucket}/generated/girl/{job_id}_thumb.jpg",
        "manifest_url": f"{bucket}/manifests/girl/{job_id}.json",
    }
    event: GenerationCompleted = sample(GenerationCompleted, job_id=job_id, **urls | fields)
    return event


def page(*events: Event, dead: Record | None = None, requests: tuple[GenerationRequest, ...] = ()) -> Page:
    records: list[tuple[Record, Event | None]] = [(record(), event) for event in events]
    if dead is not None:
        records.append((dead, None))
    return Page(render(requests, records, generation_s=12.34))


def test_what_people_wrote_is_escaped() -> None:
    failed = sample(GenerationFailed, job_id="b", error_code=ErrorCode.INTERNAL, error_message=EVIL)
    request = sample(GenerationRequest, job_id="b", prompt=EVIL)
    dead = record(key=EVIL.encode(), headers=[("dlq-error", EVIL.encode())])
    shown = page(completed("a", prompt=EVIL, scheduler=EVIL), failed, dead=dead, requests=(request,))
    assert "script" not in shown.tags
    assert shown.text.count("<script>alert('x')</script>") == 6


def test_links_are_relative_to_the_page() -> None:
    shown = page(completed("a"))
    assert set(shown.links) == {"pictures/a.jpg", "pictures/a_thumb.jpg", "pictures/a.json"}


def test_a_card_has_what_a_person_asks_for() -> None:
    event = completed("a", prompt="a fox", queue_time=1.25, generation_time=2.5, seed=42, priority=Priority.URGENT)
    text = page(event).text
    for fact in ("a fox", "urgent", "1.25 s", "2.50 s", "42", "7 × 7", "12.3"):
        assert fact in text
    assert "What you see is what was asked." in text


def test_failures_and_dead_letters_say_why() -> None:
    failed = sample(GenerationFailed, error_code=ErrorCode.INVALID_REQUEST, error_message="steps is 0")
    headers = [("dlq-topic", b"generation.requests.normal"), ("dlq-partition", b"3"), ("dlq-offset", b"9")]
    dead = record("generation.dead-letter", headers=[*headers, ("dlq-error", b"starts with 7b 22")])
    text = page(failed, dead=dead).text
    for fact in ("steps is 0", "invalid_request", "starts with 7b 22", "normal, partition 3, offset 9"):
        assert fact in text


def test_a_page_without_any_picture_is_a_page() -> None:
    assert "0completed" in re.sub(r"\s", "", page().text)


def test_cards_stand_in_the_order_of_sending() -> None:
    requests = tuple(sample(GenerationRequest, job_id=name, prompt=name) for name in ("first", "second"))
    events = [completed(name, prompt=f"prompt {name}") for name in ("second", "first")]
    text = render(requests, [(record(), event) for event in events], generation_s=1)
    assert text.index("prompt first") < text.index("prompt second")


def test_keys_come_from_urls_of_any_store() -> None:
    for start in ("http://127.0.0.1:8333/bucket", "https://bucket.s3.amazonaws.com", "https://cdn.example/media"):
        assert object_key(f"{start}/generated/g/a%2Db.jpg?x=1") == "generated/g/a-b.jpg"
        assert object_key(f"{start}/manifests/generated/a.json") == "manifests/generated/a.json"
    assert file_name("https://cdn.example/generated/g/a_thumb.jpg") == "a_thumb.jpg"


def test_events_are_json_lines_with_topic_and_headers(tmp_path: Path) -> None:
    dead = record(
        "generation.dead-letter",
        key=UNDECODABLE_ID.encode(),
        value=UNDECODABLE + b"\xff",
        headers=[("dlq-error", b"why"), ("none", None)],
    )
    write_events(tmp_path / "events.jsonl", [(record(), completed("a")), (dead, None)])
    first, second = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert (first["topic"], first["event"]["type"]) == ("generation.completed", "GenerationCompleted")
    assert second["headers"] == {"dlq-error": "why", "none": None}
    assert second["value"] == UNDECODABLE.decode() + "\\xff"


def test_pictures_are_fetched_and_missing_ones_named(s3: SeaweedFS, tmp_path: Path) -> None:
    client = s3.client()
    for key in ("generated/girl/gallery-a.jpg", "manifests/girl/gallery-a.json"):
        client.put_object(Bucket=s3.bucket, Key=key, Body=b"bytes")
    missing = fetch_pictures(client, s3.bucket, [completed("gallery-a")], tmp_path)
    assert missing == ["generated/girl/gallery-a_thumb.jpg"]
    assert (tmp_path / "gallery-a.jpg").read_bytes() == b"bytes"


def test_only_an_earlier_demos_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("index.html", "events.jsonl", "notes.txt", "pictures/a.jpg", "pictures/letter.txt"):
        (tmp_path / name).write_text("x")
    clear(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["notes.txt", "pictures/letter.txt"]


def test_a_card_shows_loras_and_the_negative_prompt_where_there_are_some() -> None:
    loras = (Lora(name="sepia", weight=0.8), Lora(name=EVIL))
    with_both = page(completed("a", loras=loras, negative_prompt=EVIL))
    assert f"sepia at 0.8, {EVIL} at 1" in with_both.text
    assert f"negative prompt{EVIL}" in with_both.text
    assert "script" not in with_both.tags
    without = page(completed("a", loras=(), negative_prompt=None))
    assert "LoRAs" not in without.text.partition("The pictures")[2]
    assert "negative prompt" not in without.text
