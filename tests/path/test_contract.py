"""One event becomes one picture: the contract, tested from outside on each broker."""

from __future__ import annotations

import io
import json
import math
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest
from PIL import Image

from tests import scrape
from tests.harness import Client, Result, Site, WorkerProcess, small_request
from worker.errors import ErrorCode
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationStatus, Lora, OutputFormat

pytestmark = pytest.mark.usefixtures("worker")

REQUEST_SCHEMA = Path(__file__).parents[2] / "schemas" / "generation_request.avsc"


def fetch(site: Site, key: str) -> Any:
    return site.store.client().get_object(Bucket=site.store.bucket, Key=key)


def completed(result: Result) -> GenerationCompleted:
    assert isinstance(result.event, GenerationCompleted), result.event
    return result.event


def failed(result: Result) -> GenerationFailed:
    assert isinstance(result.event, GenerationFailed), result.event
    return result.event


class TestPicture:
    @pytest.mark.parametrize("lane", ["urgent", "high", "normal"])
    def test_a_request_on_each_lane_becomes_a_picture(self, site: Site, client: Client, lane: str) -> None:
        request = client.request(lane, width=96, height=64, seed=7)
        event = completed(client.one(request.job_id))
        picture = fetch(site, f"generated/luna/{request.job_id}.jpg")
        body = picture["Body"].read()
        image = Image.open(io.BytesIO(body))
        assert (image.size, image.format) == ((96, 64), "JPEG")
        assert picture["ContentType"] == "image/jpeg"
        assert picture["CacheControl"] == "public, max-age=31536000, immutable"
        assert (event.byte_count, event.seed, event.priority) == (len(body), 7, lane)
        assert b"trainedAlgorithmicMedia" in body
        assert request.prompt.encode() not in body

    def test_the_thumbnail_lies_beside_it_and_the_manifest_apart(self, site: Site, client: Client) -> None:
        request = client.request(width=512, height=256, num_inference_steps=1)
        event = completed(client.one(request.job_id))
        thumbnail = Image.open(io.BytesIO(fetch(site, f"generated/luna/{request.job_id}_thumb.jpg")["Body"].read()))
        assert max(thumbnail.size) == 256
        stored = fetch(site, f"manifests/luna/{request.job_id}.json")
        assert stored["CacheControl"] == "private, no-store"
        manifest = json.loads(stored["Body"].read())
        assert manifest["recipe"]["seed"] == event.seed
        assert manifest["picture"]["sha256"] == event.sha256
        bucket = f"{site.store.endpoint_url}/{site.store.bucket}"
        for url in (event.image_url, event.thumbnail_url):
            assert url.startswith(f"{bucket}/generated/luna/")
        assert event.manifest_url == f"{bucket}/manifests/luna/{request.job_id}.json"

    @pytest.mark.parametrize(("form", "suffix"), [(OutputFormat.WEBP, "webp"), (OutputFormat.PNG, "png")])
    def test_other_formats_by_request(self, site: Site, client: Client, form: OutputFormat, suffix: str) -> None:
        request = client.request(output_format=form)
        event = completed(client.one(request.job_id))
        assert event.image_url.endswith(f".{suffix}")
        body = fetch(site, f"generated/luna/{request.job_id}.{suffix}")["Body"].read()
        assert Image.open(io.BytesIO(body)).format == suffix.upper()

    def test_high_quality_runs_the_refiner(self, client: Client) -> None:
        plain = client.request(seed=3, num_inference_steps=8)
        refined = client.request(seed=3, num_inference_steps=8, high_quality=True)
        one, other = completed(client.one(plain.job_id)), completed(client.one(refined.job_id))
        assert one.refiner_fingerprint is None
        assert other.refiner_fingerprint
        assert one.sha256 != other.sha256

    def test_one_step_beside_fifty(self, client: Client) -> None:
        long = client.request(num_inference_steps=50, width=128, height=128)
        short = client.request(num_inference_steps=1)
        assert completed(client.one(short.job_id)).num_inference_steps == 1
        assert completed(client.one(long.job_id)).num_inference_steps == 50

    def test_the_same_seed_gives_the_same_bytes(self, client: Client) -> None:
        jobs = [client.request(lane, seed=11, num_inference_steps=6) for lane in ("urgent", "high", "normal")]
        assert len({completed(client.one(job.job_id)).blurhash for job in jobs}) == 1


class TestEvents:
    def test_text_headers_say_what_happened(self, client: Client) -> None:
        request = client.request("high")
        headers = client.one(request.job_id).headers
        assert headers["content-type"] == "application/avro"
        assert headers["ce_type"] == "imagegen.events.v1.GenerationCompleted"
        assert headers["ce_specversion"] == "1.0"
        assert (headers["job-id"], headers["priority"], headers["status"]) == (request.job_id, "high", "completed")
        assert (headers["worker-id"], headers["attempt"]) == ("worker-1", "1")
        assert int(headers["duration-ms"]) >= 0

    def test_traceparent_is_passed_through(self, site: Site, client: Client) -> None:
        request = small_request()
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        value, _ = client.codec.encode(request, topic=site.topics.normal)
        client.send(site.topics.normal, request.job_id.encode(), value, [("traceparent", trace.encode())])
        assert client.one(request.job_id).headers["traceparent"] == trace

    def test_a_foreign_producer_with_plain_avro_is_understood(self, site: Site, client: Client) -> None:
        schema = fastavro.schema.load_schema(str(REQUEST_SCHEMA))
        # The Avro specification's single-object encoding, by hand: marker, little-endian CRC-64-AVRO, body.
        fingerprint = fastavro.schema.fingerprint(
            fastavro.schema.to_parsing_canonical_form(json.loads(REQUEST_SCHEMA.read_text())), "CRC-64-AVRO"
        )
        record = {"job_id": "foreign-1", "girl_id": "mia", "user_id": 9, "prompt": "x", "width": 64, "height": 64}
        body = io.BytesIO()
        fastavro.schemaless_writer(body, schema, {**record, "num_inference_steps": 2})
        client.send(site.topics.high, b"foreign-1", b"\xc3\x01" + bytes.fromhex(fingerprint) + body.getvalue())
        event = completed(client.one("foreign-1"))
        assert (event.girl_id, event.user_id, event.guidance_scale) == ("mia", 9, 7.5)

    def test_the_status_topic_ends_at_completed(self, site: Site, client: Client) -> None:
        request = client.request()
        client.one(request.job_id)
        statuses = [event.status.value for event in read_statuses(site, client, request.job_id)]
        assert statuses[0] == "queued"
        assert statuses[-1] == "completed"


class TestRepeatedIds:
    def test_the_same_request_again_is_answered_from_the_store(self, client: Client, worker: WorkerProcess) -> None:
        request = client.request("high", job_id="again-1")
        first = completed(client.one("again-1"))
        steps = metric(worker, "sdxl_worker_steps_total")
        client.request("high", **{name: getattr(request, name) for name in ("job_id", "width", "height")})
        client.wait_for(lambda _: len(client.of("again-1")) == 2)
        second = completed(client.of("again-1")[1])
        assert (second.sha256, second.image_url) == (first.sha256, first.image_url)
        assert metric(worker, "sdxl_worker_steps_total") == steps

    def test_another_request_under_the_same_id_is_invalid(self, client: Client) -> None:
        client.request(job_id="again-2")
        client.one("again-2")
        client.request(job_id="again-2", prompt="something else")
        client.wait_for(lambda _: len(client.of("again-2")) == 2)
        event = failed(client.of("again-2")[1])
        assert event.error_code is ErrorCode.INVALID_REQUEST
        assert "job_id" in event.error_message

    def test_what_is_refused_under_a_pictures_id_leaves_its_status_and_has_an_event_of_its_own(
        self, site: Site, client: Client
    ) -> None:
        changes: list[dict[str, Any]] = [
            {},
            {"prompt": "something else"},
            {"girl_id": "mia"},
            {"num_inference_steps": 0},
            {"expires_at": datetime.now(UTC) - timedelta(hours=1)},
        ]
        for count, change in enumerate(changes, 1):
            client.request(job_id="again-3", **change)
            client.wait_for(lambda _, count=count: len(client.of("again-3")) == count)  # type: ignore[misc]
        first, *others = client.of("again-3")
        picture = completed(first)
        assert [failed(other).girl_id for other in others] == ["luna", "mia", "luna", "luna"]
        assert len({result.headers["ce_id"] for result in client.of("again-3")}) == len(changes)
        last = read_statuses(site, client, "again-3", all_of_them=True)[-1]
        assert (last.status, last.image_url, last.girl_id) == ("completed", picture.image_url, "luna")


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"job_id": "a/b"}, "job_id"),
    ({"job_id": "../../etc/passwd"}, "job_id"),
    ({"girl_id": ".hidden"}, "girl_id"),
    ({"girl_id": ""}, "girl_id"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 10_000}, "num_inference_steps"),
    ({"guidance_scale": math.nan}, "guidance_scale"),
    ({"guidance_scale": math.inf}, "guidance_scale"),
    ({"width": 7}, "width"),
    ({"height": 100_000}, "height"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "x" * 900_000}, "prompt"),
    ({"scheduler": "Nonsense"}, "scheduler"),
    ({"affection_level": 101}, "affection_level"),
    ({"seed": -1}, "seed"),
]


BAD_IDS = [f"{named}-{number}" for number, (_, named) in enumerate(BAD_FIELDS)]


class TestBadInput:
    @pytest.mark.parametrize(("fields", "named"), BAD_FIELDS, ids=BAD_IDS)
    def test_an_invalid_field_is_named_in_a_failed_event(
        self, client: Client, fields: dict[str, Any], named: str
    ) -> None:
        request = client.request(**fields)
        event = failed(client.one(request.job_id))
        assert event.error_code is ErrorCode.INVALID_REQUEST
        assert named in event.error_message
        assert "\n" not in event.error_message

    @pytest.mark.parametrize("name", ["unheard-of", "../../secret"])
    def test_an_unknown_lora_fails_by_name(self, client: Client, name: str) -> None:
        request = client.request(loras=(Lora(name=name),))
        assert failed(client.one(request.job_id)).error_code is ErrorCode.UNKNOWN_LORA

    def test_a_prompt_that_points_at_a_minor_is_rejected_at_any_nsfw_level(self, client: Client) -> None:
        request = client.request(prompt="portrait of somebody, 15 years old", nsfw_level=1)
        event = failed(client.one(request.job_id))
        assert (event.error_code, event.retryable) == (ErrorCode.CONTENT_REJECTED, False)
        assert "15" not in event.error_message
        assert "somebody" not in event.error_message

    def test_a_request_that_comes_too_late_is_expired(self, client: Client) -> None:
        request = client.request(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        event = failed(client.one(request.job_id))
        assert (event.error_code, event.retryable) == (ErrorCode.EXPIRED, True)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("magic", b"\x07nonsense"),
            ("fingerprint", b"\xc3\x01" + b"\x00" * 8 + b"rest"),
            ("truncated", None),
            ("confluent", b"\x00" + struct.pack(">I", 1) + b"body"),
            ("empty", b""),
            ("json", b'{"job_id": "x"}'),
        ],
    )
    def test_undecodable_bytes_go_to_the_dead_letters_as_they_came(
        self, site: Site, client: Client, name: str, value: bytes | None
    ) -> None:
        if value is None:
            value = client.codec.encode(small_request(), topic=site.topics.urgent)[0][:-3]
        key = f"dead-{name}".encode()
        client.send(site.topics.urgent, key, value, [("mine", b"kept")])
        result = client.one(key.decode())
        assert result.topic == site.topics.dead_letter
        assert (result.value or b"") == value
        assert result.headers["mine"] == "kept"
        assert result.headers["dlq-topic"] == site.topics.urgent
        assert int(result.headers["dlq-partition"]) >= 0
        assert int(result.headers["dlq-offset"]) >= 0
        assert result.headers["dlq-error"]

    def test_a_record_without_girl_id_is_no_request(self, site: Site, client: Client) -> None:
        schema = json.loads(REQUEST_SCHEMA.read_text())
        schema["fields"] = [field for field in schema["fields"] if field["name"] != "girl_id"]
        parsed = fastavro.parse_schema(schema)
        body = io.BytesIO()
        fastavro.schemaless_writer(body, parsed, {"job_id": "no-girl", "user_id": 1, "prompt": "x"})
        digest = fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO")
        client.send(site.topics.normal, b"no-girl", b"\xc3\x01" + bytes.fromhex(digest) + body.getvalue())
        assert client.one("no-girl").topic == site.topics.dead_letter

    def test_the_worker_goes_on_after_all_of_it(self, client: Client, worker: WorkerProcess) -> None:
        request = client.request("urgent")
        completed(client.one(request.job_id))
        assert worker.running


class TestHttp:
    def test_health_has_the_guides_json(self, worker: WorkerProcess) -> None:
        status, body = worker.get("/health")
        health = json.loads(body)
        expected = {"status": "healthy", "pipeline_loaded": True, "refiner_loaded": True, "device": "cpu"}
        assert status == 200
        assert expected.items() <= health.items()
        assert (health["gpu_available"], health["gpu_count"]) == (False, 0)

    def test_metrics_have_the_guides_three(self, client: Client, worker: WorkerProcess) -> None:
        client.one(client.request("urgent").job_id)
        assert metric(worker, 'image_generation_requests_total{priority="urgent"}') >= 1
        assert metric(worker, 'image_generation_duration_seconds_count{priority="urgent"}') >= 1
        client.one(client.request("urgent", num_inference_steps=0).job_id)
        assert metric(worker, 'image_generation_errors_total{error_code="invalid_request",priority="urgent"}') >= 1


def metric(worker: WorkerProcess, name: str) -> float:
    return scrape.value(worker.get("/metrics")[1], name) or 0.0


def read_statuses(site: Site, client: Client, job_id: str, *, all_of_them: bool = False) -> list[GenerationStatus]:
    """The statuses of a job, in order: up to the first `completed`, or all of them."""
    from confluent_kafka import Consumer, TopicPartition

    topic = site.topics.status
    consumer = Consumer({"bootstrap.servers": site.broker.bootstrap_servers, "group.id": "s", "fetch.wait.max.ms": 20})
    places = [TopicPartition(topic, p, 0) for p in consumer.list_topics(topic, timeout=10).topics[topic].partitions]
    consumer.assign(places)
    found: list[GenerationStatus] = []
    quiet = 0
    while quiet < 15 and (all_of_them or not found or found[-1].status != "completed"):
        record = consumer.poll(0.2)
        if record is None or record.error() is not None:
            quiet += 1
        elif record.key() == job_id.encode():
            event = client.codec.decode_any(record.value(), topic=topic, headers=None)
            assert isinstance(event, GenerationStatus)
            found.append(event)
    consumer.close()
    return found
