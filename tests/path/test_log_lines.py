"""Every log line about a job names it: a worker with jobs that end in every way."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
import torch

from devtools.local.seaweedfs import SeaweedFS
from tests.engine.lora_files import write_peft
from tests.harness import Broker, Client, Site, log_lines, small_request
from worker.events.types import Lora
from worker.models.load import load_base
from worker.topics import Topics

NAMED = {"job_id", "topic", "partition", "offset", "trace_id"}
# A commit is refused where the members of the other lanes are still joining; the next one takes its place.
OF_THE_PROCESS = {"starting", "model_loaded", "start_times", "canary", "ready", "assigned", "revoked", "commit_refused"}
OF_THE_PROCESS |= {"loras_over_capacity", "signal", "stopped"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PROMPT = "a lighthouse at dusk"

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def lines(embedded: Broker, s3: SeaweedFS, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Lines:
    """A picture with two LoRAs where one fits, its repetition, an invalid request and bytes that are none."""
    topics = Topics(prefix=f"t{uuid.uuid4().hex[:8]}.")
    embedded.create_topics(topics)
    loras = tmp_path_factory.mktemp("loras")
    base = load_base(str(toy / "base"), dtype=torch.float32, device=torch.device("cpu"))
    for seed, name in enumerate(("one", "two")):
        write_peft(loras / f"{name}.safetensors", base, seed=seed)
    site = Site(embedded, topics, s3, toy, tmp_path_factory.mktemp("logs"))
    client = Client(site)
    picture: dict[str, Any] = {"job_id": "picture", "loras": (Lora(name="one"), Lora(name="two"))}
    with site.worker("wordy", LOG_LEVEL="debug", SDXL_LORA_PATH=str(loras), LORA_CACHE_SIZE="1") as worker:
        for number, fields in enumerate((picture, picture, {"job_id": "wrong", "num_inference_steps": 0})):
            send(client, **fields)
            client.wait_for(lambda results, wanted=number + 1: len(results) == wanted)  # type: ignore[misc]
        client.send(topics.normal, b"junk", b"no event", [("traceparent", traceparent())])
        client.wait_for(lambda results: len(results) == 4)
        assert worker.terminate() == 0
    client.close()
    assert PROMPT not in worker.log.read_text()
    return log_lines(worker.log)


def traceparent() -> bytes:
    return f"00-{TRACE}-00f067aa0ba902b7-01".encode()


def send(client: Client, **fields: Any) -> None:
    request = small_request(**fields)
    topic = client.site.topics.normal
    value, framing = client.codec.encode(request, topic=topic)
    client.send(topic, request.job_id.encode(), value, [("traceparent", traceparent()), *framing])


def of(lines: Lines, job_id: str) -> Lines:
    return [line for line in lines if line.get("job_id") == job_id]


def test_every_line_is_about_a_job_and_names_it_or_about_the_process(lines: Lines) -> None:
    assert [line for line in lines if line["event"] not in OF_THE_PROCESS and not line.keys() >= NAMED] == []


def test_a_jobs_lines_tell_its_way(lines: Lines) -> None:
    told: dict[tuple[int, int], list[str]] = {}
    for line in of(lines, "picture"):
        # By record: the repeat may be taken while the end of the first is still being written down.
        told.setdefault((line["partition"], line["offset"]), []).append(line["event"])
    assert sorted(told.values(), key=len) == [
        ["job_taken", "job_ended"],
        ["job_taken", "job_started", "job_ended"],
    ]
    assert [line["event"] for line in of(lines, "wrong")] == ["job_ended"]
    assert [line["event"] for line in of(lines, "junk")] == ["dead_letter"]


def test_they_say_how_it_ended(lines: Lines) -> None:
    first, second = [line for line in of(lines, "picture") if line["event"] == "job_ended"]
    assert (first["status"], second["status"]) == ("completed", "completed")
    [wrong] = of(lines, "wrong")
    assert (wrong["status"], wrong["error_code"], wrong["attempt"]) == ("failed", "invalid_request", 1)
    assert "num_inference_steps" in wrong["reason"]


def test_the_trace_and_the_place_are_the_requests_own(lines: Lines) -> None:
    mine = [line for line in lines if "job_id" in line]
    assert {line["trace_id"] for line in mine} == {TRACE}
    assert {line["topic"].rsplit(".", 1)[-1] for line in mine} == {"normal"}
    assert len({(line["partition"], line["offset"]) for line in of(lines, "picture")}) == 2
