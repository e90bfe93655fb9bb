"""POST /generate: what is sent, what is refused, and that a job is sent once."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from tests.gateway.world import GOOD, TOPICS, Log, World, make_world, manifest_of

JSON = {"Content-Type": "application/json"}


def post(world: World, body: Any, **headers: str) -> Any:
    """The answer to one POST."""
    content = body if isinstance(body, bytes) else json.dumps(body)

    async def ask() -> Any:
        async with world.client() as client:
            return await client.post("/generate", content=content, headers=JSON | headers)

    return asyncio.run(ask())


def get(world: World, path: str, **headers: str) -> Any:
    async def ask() -> Any:
        async with world.client() as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize("priority", ["urgent", "high", "normal"])
def test_a_request_is_sent_to_its_lane(priority: str) -> None:
    world = make_world()
    answer = post(world, GOOD | {"priority": priority})
    assert answer.status_code == 202
    job_id = answer.json()["job_id"]
    assert answer.json() == {"job_id": job_id, "status": "queued"}
    assert uuid.UUID(job_id)
    assert answer.headers["location"] == f"/status/{job_id}?girl_id=luna"
    [seen] = world.log.records
    assert seen.record.topic == f"generation.requests.{priority}"
    assert world.log.requests[0].prompt == GOOD["prompt"]
    job = get(world, f"/status/{job_id}").json()
    assert (job["status"], job["lane"], job["girl_id"]) == ("queued", priority, "luna")


def test_a_trace_goes_on_in_the_record() -> None:
    world = make_world()
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    post(world, GOOD, traceparent=trace)
    post(world, GOOD, traceparent="00-evil")
    first, second = (seen.record.headers for seen in world.log.records)
    assert first == (("traceparent", trace.encode()),)
    assert second == ()


@pytest.mark.parametrize(
    ("body", "status", "field", "says"),
    [
        (b"", 400, None, "not JSON"),
        (b"{", 400, None, "not JSON"),
        (b"\xff\xfe", 400, None, "not UTF-8 (byte 0)"),
        (b"[]", 422, None, "not a JSON object"),
        (b"null", 422, None, "not a JSON object"),
        (b"[" * 100_000, 400, None, "not JSON"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400, None, "too many brackets"),
        (b'{"girl_id": "a", "girl_id": "b"}', 400, "girl_id", "twice"),
        (b'{"guidance_scale": NaN}', 400, None, "NaN"),
        (b'{"guidance_scale": -Infinity}', 400, None, "-Infinity"),
        (b'{"user_id": ' + b"9" * 5_000 + b"}", 400, None, "not JSON"),
        ({}, 422, "girl_id", "girl_id: Field required"),
        (GOOD | {"promt": "x"}, 422, "promt", "unknown field promt"),
        (GOOD | {"a\nb\u2028" * 100: 1}, 422, None, "unknown field"),
        (GOOD | {"user_id": "1"}, 422, "user_id", "user_id: Input should be a valid integer"),
        (GOOD | {"user_id": 1.5}, 422, "user_id", "valid integer"),
        (GOOD | {"user_id": 2**63}, 422, "user_id", "64 bits"),
        (GOOD | {"user_id": True}, 422, "user_id", "user_id: Input should be a valid integer"),
        (GOOD | {"guidance_scale": 1e999}, 422, "guidance_scale", "finite"),
        (GOOD | {"prompt": " "}, 422, "prompt", "prompt is empty"),
        (GOOD | {"prompt": None}, 422, "prompt", "prompt: Input should be a valid string"),
        (GOOD | {"prompt": "x" * 8_001}, 422, "prompt", "8001 characters"),
        (GOOD | {"width": 100}, 422, "width", "width is 100; it must be a multiple of 8"),
        (GOOD | {"width": 2048, "height": 2048}, 422, "width", "pixels"),
        (GOOD | {"num_inference_steps": 501}, 422, "num_inference_steps", "from 1 to 500"),
        (GOOD | {"priority": "unknown"}, 422, "priority", "urgent, high, normal"),
        (GOOD | {"scheduler": "x\n"}, 422, "scheduler", "unknown"),
        (GOOD | {"girl_id": "../x"}, 422, "girl_id", "girl_id must be"),
        (GOOD | {"job_id": "../x"}, 422, "job_id", "job_id must be"),
        (GOOD | {"job_id": "a\r\nX: y"}, 422, "job_id", "job_id must be"),
        (GOOD | {"job_id": None}, 422, "job_id", "job_id: Input should be a valid string"),
        (GOOD | {"loras": [{"name": "a", "weight": 9}]}, 422, "loras", "weight 9"),
        (GOOD | {"loras": [{"weight": 1}]}, 422, "loras.0.name", "loras.0.name: Field required"),
        (GOOD | {"expires_at": "2020-01-01T00:00:00Z"}, 422, "expires_at", "had passed"),
        (GOOD | {"expires_at": "2020-01-01T00:00:00"}, 422, "expires_at", "no timezone"),
        (GOOD | {"prompt": "a child", "nsfw_level": 50}, 422, "prompt", "prompt"),
        (b'{"girl_id": "a", "user_id": 1, "prompt": "\\ud800"}', 400, None, "surrogate"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_with_the_field_named(
    body: Any, status: int, field: str | None, says: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).replace("Infinity", "1e999").encode()
    world = make_world()
    answer = post(world, content)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    if field is not None:
        assert answer.json()["field"] == field
    assert not world.log.records


def test_a_refusal_has_the_sentence_and_the_code_of_a_worker() -> None:
    answer = post(make_world(), GOOD | {"width": 100})
    assert answer.json() == {
        "error": "width is 100; it must be a multiple of 8 from 64 to 2048",
        "field": "width",
        "code": "invalid_request",
    }
    assert post(make_world(), GOOD | {"prompt": "a child", "nsfw_level": 50}).json()["code"] == "content_rejected"


def test_a_whole_number_with_a_point_is_an_integer() -> None:
    world = make_world()
    body = GOOD | {"user_id": 7.0, "num_inference_steps": 20.0, "seed": 3.0}
    assert post(world, body).status_code == 202
    [request] = world.log.requests
    assert (request.user_id, request.num_inference_steps, request.seed) == (7, 20, 3)
    assert type(request.user_id) is int
    assert post(world, GOOD | {"user_id": 1e18}).status_code == 422


def test_the_limits_are_those_of_the_settings() -> None:
    assert post(make_world(max_inference_steps=10), GOOD).json()["field"] == "num_inference_steps"


def test_only_json_is_read_and_only_so_much() -> None:
    world = make_world(gateway_max_body_bytes=2_000)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert post(world, GOOD, **{"Content-Type": kind}).status_code == 415
    assert post(world, GOOD, **{"Content-Type": "Application/JSON; charset=utf-8"}).status_code == 202
    large = post(world, GOOD | {"prompt": "x" * 3_000})
    assert (large.status_code, large.headers["connection"]) == (413, "close")
    assert post(world, GOOD, **{"Content-Length": "9" * 30}).status_code == 413

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 1_000

    async def unstated() -> Any:
        async with world.client() as client:
            return await client.post("/generate", content=chunks(), headers=JSON)

    assert asyncio.run(unstated()).status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.gateway.body.TIMEOUT_S", 0.05)

    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(60)

    async def ask() -> Any:
        async with make_world().client() as client:
            return await client.post("/generate", content=slow(), headers=JSON)

    assert asyncio.run(ask()).status_code == 408


def test_what_kafka_does_not_acknowledge_is_not_claimed() -> None:
    world = make_world()
    world.log.away = "Local: Message timed out"
    body = GOOD | {"job_id": "mine"}
    answer = post(world, body)
    assert answer.status_code == 503
    assert "Message timed out" in answer.json()["error"]
    assert answer.headers["retry-after"]
    assert get(world, "/status/mine").status_code == 404
    world.log.away = None
    assert post(world, body).status_code == 202


def test_a_key_is_one_job_at_every_gateway() -> None:
    log = Log()
    one, two = make_world(log), make_world(log)
    key = {"Idempotency-Key": "order-17"}
    first, second = post(one, GOOD, **key), post(two, GOOD, **key)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    log.status(first.json()["job_id"], "failed", after_s=1)
    assert post(one, GOOD, **key).json()["status"] == "failed"
    assert len(log.requests) == 1
    other = post(two, GOOD | {"prompt": "a forest"}, **key)
    assert (other.status_code, other.json()["field"]) == (409, "job_id")
    # A gateway that starts now reads the requests again.
    assert post(make_world(log), GOOD | {"prompt": "a forest"}, **key).status_code == 409
    assert post(one, GOOD | {"job_id": "x"}, **key).json()["field"] == "job_id"


def test_a_key_of_another_client_is_another_job() -> None:
    tokens = "web:0123456789abcdef,app:fedcba9876543210"
    world = make_world(tokens=tokens)

    async def ask(token: str) -> Any:
        async with world.client(token) as client:
            return await client.post("/generate", json=GOOD, headers={"Idempotency-Key": "k"})

    web, app = asyncio.run(ask("0123456789abcdef")), asyncio.run(ask("fedcba9876543210"))
    assert web.json()["job_id"] != app.json()["job_id"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    answer = post(make_world(), GOOD, **{"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")


def test_the_same_request_at_the_same_time_is_sent_once() -> None:
    world = make_world()

    async def race() -> list[Any]:
        world.log.held = asyncio.Event()
        async with world.client() as client:
            key = {"Idempotency-Key": "k"}
            tasks = [asyncio.create_task(client.post("/generate", json=GOOD, headers=key)) for _ in range(5)]
            other = asyncio.create_task(client.post("/generate", json=GOOD | {"user_id": 2}, headers=key))
            await asyncio.sleep(0.05)
            world.log.held.set()
            return [await task for task in (*tasks, other)]

    answers = asyncio.run(race())
    assert [answer.status_code for answer in answers] == [202] * 5 + [409]
    assert len(world.log.requests) == 1


def test_a_job_of_ones_own_id_that_failed_is_wanted_again() -> None:
    world = make_world()
    body = GOOD | {"job_id": "mine"}
    assert post(world, body).status_code == 202
    assert post(world, body).status_code == 200
    world.log.status("mine", "failed", after_s=1)
    assert post(world, body).json()["status"] == "queued"
    assert get(world, "/status/mine").json()["status"] == "queued"
    assert len(world.log.requests) == 2
    assert post(world, body | {"prompt": "a forest"}).status_code == 409


def test_a_picture_whose_request_is_forgotten_is_compared_by_its_manifest() -> None:
    log = Log()
    world = make_world(log)
    post(world, GOOD | {"job_id": "mine"})
    manifest = manifest_of(log.requests[0])
    log.records.clear()
    log.status("mine", "completed", after_s=1)
    fresh = make_world(log)
    fresh.store.manifests["luna", "mine"] = manifest
    assert post(fresh, GOOD | {"job_id": "mine"}).json()["status"] == "completed"
    assert post(fresh, GOOD | {"job_id": "mine", "prompt": "a forest"}).status_code == 409
    assert fresh.store.asked == 2


def test_too_many_requests_are_told_when_to_come_back() -> None:
    now = [100.0]
    world = make_world(gateway_rate_per_s=2.0, gateway_burst=3, clock=lambda: now[0])
    assert [post(world, GOOD).status_code for _ in range(4)] == [202, 202, 202, 429]
    assert post(world, GOOD).headers["retry-after"] == "1"
    now[0] += 0.5
    assert post(world, GOOD).status_code == 202
    assert post(world, GOOD).status_code == 429
    # Looking costs nothing.
    assert get(world, "/queue").status_code == 200


def test_a_cancellation_is_sent_and_its_end_is_told() -> None:
    world = make_world()
    job_id = post(world, GOOD).json()["job_id"]

    async def delete(path: str) -> Any:
        async with world.client() as client:
            return await client.delete(path)

    answer = asyncio.run(delete(f"/jobs/{job_id}?reason=changed%20my%20mind"))
    assert (answer.status_code, answer.json()["status"]) == (202, "cancellation_requested")
    sent = world.log.records[-1]
    assert sent.record.topic == TOPICS.cancellations
    assert (sent.event.job_id, sent.event.reason) == (job_id, "changed my mind")  # type: ignore[union-attr]
    world.log.status(job_id, "cancelled", after_s=1)
    assert asyncio.run(delete(f"/jobs/{job_id}")).json()["status"] == "cancelled"
    world.log.status("done", "completed")
    assert asyncio.run(delete("/jobs/done")).status_code == 409
    count = len(world.log.records)
    assert asyncio.run(delete("/jobs/unknown-here")).status_code == 202
    assert len(world.log.records) == count + 1
    assert asyncio.run(delete(f"/jobs/unknown-here?reason={'x' * 201}")).json()["field"] == "reason"
