"""A worker process and an OTLP collector: the spans that it exports, and none if it is not configured."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devtools.local.process import free_port
from devtools.local.seaweedfs import SeaweedFS
from tests.harness import Broker, Client, Result, Site, log_lines, small_request
from tests.path.collector import Collector, attributes
from worker.topics import Topics

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
PROCESS, SEND, INTERNAL, ERROR = 5, 4, 1, 2
PHASES = ["encode_text", "denoise", "decode", "encode", "upload"]


@pytest.fixture(scope="module")
def place(embedded: Broker, s3: SeaweedFS, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    topics = Topics(prefix=f"t{uuid.uuid4().hex[:8]}.")
    embedded.create_topics(topics)
    return Site(embedded, topics, s3, toy, tmp_path_factory.mktemp("logs"))


@dataclass(frozen=True)
class Seen:
    """What a collector and a client saw of a picture, a failure and a request without a `traceparent`."""

    collector: Collector
    topics: Topics
    picture: Result
    failure: Result
    rootless: Result
    lines: list[dict[str, Any]]

    def span(self, name: str, result: Result) -> Any:
        """The span of that name about the job of that result."""
        job_id = result.headers["job-id"]
        [span] = [
            span
            for span in self.collector.spans
            if span.name == name and attributes(span).get("messaging.message.conversation_id") == job_id
        ]
        return span

    def children(self, parent: Any) -> list[Any]:
        return [span for span in self.collector.spans if span.parent_span_id == parent.span_id]


def send(client: Client, traceparent: str | None, **fields: Any) -> str:
    request = small_request(**fields)
    topic = client.site.topics.high
    value, framing = client.codec.encode(request, topic=topic)
    headers = [("traceparent", traceparent.encode())] if traceparent else []
    client.send(topic, request.job_id.encode(), value, [*headers, *framing])
    return request.job_id


@pytest.fixture(scope="module")
def seen(place: Site) -> Iterator[Seen]:
    """The exporter's own interval is longer than the worker lives, so that what came did so in the flush at its end."""
    client = Client(place)
    settings = {
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=hush",
        "OTEL_SERVICE_NAME": "pictures",
    }
    with Collector() as collector:
        with place.worker("traced", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **settings) as worker:
            jobs = [send(client, TRACEPARENT), send(client, TRACEPARENT, num_inference_steps=0), send(client, None)]
            picture, failure, rootless = [client.one(job) for job in jobs]
            assert collector.spans == []
            assert worker.terminate() == 0
        yield Seen(collector, place.topics, picture, failure, rootless, log_lines(worker.log))
    client.close()


class TestPicture:
    def test_its_processing_is_the_child_of_the_requests_span(self, seen: Seen) -> None:
        span = seen.span(f"process {seen.topics.high}", seen.picture)
        assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, PROCESS)
        assert span.status.code != ERROR
        assert 0 < span.start_time_unix_nano < span.end_time_unix_nano

    def test_attributes_are_those_of_the_conventions(self, seen: Seen) -> None:
        found = attributes(seen.span(f"process {seen.topics.high}", seen.picture))
        assert found.pop("messaging.destination.partition.id") in {"0", "1", "2", "3"}
        assert found.pop("messaging.kafka.offset") >= 0
        assert found == {
            "messaging.system": "kafka",
            "messaging.client.id": "traced",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": seen.topics.high,
            "messaging.consumer.group.name": f"group-{seen.topics.prefix}",
            "messaging.message.conversation_id": seen.picture.headers["job-id"],
            "sdxl_worker.priority": "high",
            "sdxl_worker.attempt": 1,
        }

    def test_its_result_carries_the_context_of_the_send_span(self, seen: Seen) -> None:
        process = seen.span(f"process {seen.topics.high}", seen.picture)
        span = seen.span(f"send {seen.topics.completed}", seen.picture)
        assert (span.kind, span.parent_span_id) == (SEND, process.span_id)
        assert seen.picture.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
        assert attributes(span)["messaging.operation.type"] == "send"
        assert span.end_time_unix_nano == process.end_time_unix_nano

    def test_its_phases_follow_each_other(self, seen: Seen) -> None:
        process = seen.span(f"process {seen.topics.high}", seen.picture)
        phases = [span for span in seen.children(process) if span.kind == INTERNAL]
        assert [span.name for span in phases] == PHASES
        edges = [edge for span in phases for edge in (span.start_time_unix_nano, span.end_time_unix_nano)]
        assert edges == sorted(edges)
        assert process.start_time_unix_nano <= edges[0] <= edges[-1] <= process.end_time_unix_nano

    def test_without_a_traceparent_it_begins_a_trace(self, seen: Seen) -> None:
        span = seen.span(f"process {seen.topics.high}", seen.rootless)
        assert span.parent_span_id == b""
        assert seen.rootless.headers["traceparent"].split("-")[1] == span.trace_id.hex()


def test_a_failed_job_has_the_status_and_the_code_of_its_error(seen: Seen) -> None:
    process = seen.span(f"process {seen.topics.high}", seen.failure)
    sent = seen.span(f"send {seen.topics.failed}", seen.failure)
    assert (process.trace_id.hex(), process.parent_span_id.hex()) == (TRACE, PARENT)
    assert (process.status.code, process.status.message) == (ERROR, "invalid_request")
    assert attributes(process)["error.type"] == "invalid_request"
    # The failed event itself was sent well.
    assert (sent.parent_span_id, sent.status.code) == (process.span_id, 0)
    assert seen.failure.headers["traceparent"] == f"00-{TRACE}-{sent.span_id.hex()}-01"


def test_the_collector_is_told_who_sends(seen: Seen) -> None:
    assert (seen.collector.paths, seen.collector.tokens) == ({"/v1/traces"}, {"hush"})
    [resource] = seen.collector.resources
    assert (resource["service.name"], resource["service.instance.id"]) == ("pictures", "traced")


def test_no_prompt_and_no_key_is_in_a_span_or_a_line(seen: Seen) -> None:
    for word in ("lighthouse", "hush"):
        assert all(word.encode() not in body for body in seen.collector.bodies)
        assert word not in repr(seen.lines)


def test_lines_have_the_trace(seen: Seen) -> None:
    mine = [line for line in seen.lines if line.get("job_id") == seen.rootless.headers["job-id"]]
    assert {line["trace_id"] for line in mine} == {seen.rootless.headers["traceparent"].split("-")[1]}


def test_a_collector_that_is_away_costs_neither_jobs_nor_a_slow_end(place: Site) -> None:
    client = Client(place)
    nobody = f"http://127.0.0.1:{free_port()}"
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": nobody, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    # A group of its own: the embedded broker keeps partitions for a member that has left until its session ends.
    with place.worker("alone", KAFKA_GROUP_ID="alone", **settings) as worker:
        assert client.one(send(client, TRACEPARENT)).event.job_id
        before = time.monotonic()
        assert worker.terminate() == 0
        assert time.monotonic() - before < 15
    # What the SDK has to say about it comes as JSON, as every line does.
    assert [line for line in worker.log.read_text().splitlines() if not line.startswith("{")] == []
    assert any(line["event"] in ("tracing", "spans_lost") for line in log_lines(worker.log))
    client.close()


@pytest.mark.slow
def test_nothing_is_imported_without_an_endpoint() -> None:
    script = (
        "import sys; from worker import app, settings, engine; import worker.engine.loop, worker.delivery.upload\n"
        "assert app.make_spans(settings.Settings(_env_file=None)) is None\n"
        "sys.exit(any(name.startswith(('opentelemetry', 'google.protobuf')) for name in sys.modules))"
    )
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0
