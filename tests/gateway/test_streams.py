"""Server-sent events: what a listener gets, and what becomes of one that does not listen."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.asking import ask, run, stream
from tests.gateway.world import GOOD, NOON, make_world
from worker.gateway import hub as hubs
from worker.gateway.hub import Hub
from worker.gateway.streams import last_event_id

MS = round(NOON.timestamp() * 1000)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def test_a_job_is_followed_to_its_end() -> None:
    async def play() -> None:
        world = make_world()
        world.log.status("a", "queued")
        async with stream(world, "/jobs/a/events") as opened:
            await opened.until('"queued"')
            assert opened.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert "content-length" not in opened.headers
            world.log.status("b", "running")
            world.log.status("a", "running", after_s=1, step=3, num_inference_steps=30)
            await opened.until('"step":3')
            world.log.status("a", "completed", after_s=2, image_url="https://x/y.jpg")
            text = await opened.end()
        assert [(one["job_id"], one["status"]) for one in events(text)] == [
            ("a", "queued"), ("a", "running"), ("a", "completed")
        ]  # fmt: skip
        assert text.count("event: status\n") == 3
        assert f"id: {MS + 2000}\n" in text
        assert len(world.service.hub) == 0

    run(play())


def test_a_line_break_in_a_message_does_not_end_the_event() -> None:
    async def play() -> None:
        world = make_world()
        world.log.status("a", "failed", error_message="one\n\nevent: status\ndata: {}\r\n")
        async with stream(world, "/jobs/a/events") as opened:
            text = await opened.end()
        assert [one["error_message"] for one in events(text)] == ["one\n\nevent: status\ndata: {}\r\n"]

    run(play())


def test_a_browser_that_knows_the_end_does_not_come_back() -> None:
    world = make_world()
    world.log.status("a", "completed")
    assert ask(world, "GET", "/jobs/a/events", headers={"Last-Event-ID": str(MS)}).status_code == 204
    again = ask(world, "GET", "/jobs/a/events", headers={"Last-Event-ID": str(MS - 1)})
    assert [one["status"] for one in events(again.text)] == ["completed"]
    for strange in ("", "x", "-1", "9" * 40, "١"):
        assert last_event_id(strange) is None
    assert len(world.service.hub) == 0


def test_a_job_of_another_gateway_is_waited_for_a_moment() -> None:
    async def play() -> None:
        world = make_world()
        world.service.unknown_wait_s = 20.0
        async with stream(world, "/jobs/late/events") as opened:
            await asyncio.sleep(0)
            while not len(world.service.hub):
                await asyncio.sleep(0.01)
            world.log.status("late", "queued")
            await opened.until('"queued"')
        async with world.client() as client:
            asked = asyncio.create_task(client.get("/status/later"))
            while not len(world.service.hub):
                await asyncio.sleep(0.01)
            world.log.status("later", "running")
            assert (await asked).json()["status"] == "running"
        world.service.unknown_wait_s = 0.01
        async with stream(world, "/jobs/never/events") as opened:
            await opened.end()
            assert opened.status == 404
        assert len(world.service.hub) == 0

    run(play())


def test_the_feed_tells_of_all_jobs_that_were_asked_for() -> None:
    async def play() -> None:
        world = make_world()
        world.log.status("before", "completed")
        async with stream(world, "/events") as everything, stream(world, "/events?lane=urgent&girl_id=mia") as some:
            await everything.until(": ")
            await some.until(": ")
            async with world.client() as client:
                mine = (await client.post("/generate", json=GOOD | {"girl_id": "mia", "priority": "urgent"})).json()
                other = (await client.post("/generate", json=GOOD | {"priority": "urgent"})).json()
            await everything.until(other["job_id"])
            await some.until(mine["job_id"])
            world.service.hub.close()
            assert [one["job_id"] for one in events(await everything.end())] == [mine["job_id"], other["job_id"]]
            assert [one["job_id"] for one in events(await some.end())] == [mine["job_id"]]

    run(play())


def test_a_feed_that_comes_back_gets_what_has_changed_since() -> None:
    async def play() -> None:
        world = make_world()
        for number, job_id in enumerate("abc"):
            world.log.status(job_id, "completed", after_s=number)
        async with stream(world, "/events", last_event_id=str(MS + 1000)) as opened:
            await opened.until('"c"')
            assert [one["job_id"] for one in events(opened.text)] == ["b", "c"]

    run(play())


def test_a_slow_listener_gets_the_latest_state_of_each_job() -> None:
    async def play() -> None:
        world = make_world()
        listener = world.service.hub.listen(None)
        for step in range(5):
            world.log.status("a", "running", after_s=step, step=step)
            world.log.status("b", "running", after_s=step, step=step)
        assert [(one.job_id, one.step) for one in await listener.next(0)] == [("a", 4), ("b", 4)]
        assert await listener.next(0.001) == []

    run(play())


def test_a_listener_that_is_too_far_behind_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "MAX_BEHIND", 3)

    async def play() -> None:
        world = make_world()
        listener = world.service.hub.listen(None)
        for number in range(5):
            world.log.status(f"job-{number}", "queued")
        assert listener.closed
        assert await listener.next(60) == []

    run(play())


def test_a_client_that_takes_no_bytes_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.gateway.streams.SEND_S", 0.05)

    async def play() -> None:
        world = make_world()
        async with stream(world, "/events") as opened:
            await opened.until(": ")
            opened.stuck = True
            world.log.status("a", "queued")
            while len(world.service.hub):
                await asyncio.sleep(0.01)
            assert not opened.ended

    run(play())


def test_a_silent_stream_is_kept_open_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.gateway.streams.HEARTBEAT_S", 0.01)

    async def play() -> None:
        async with stream(make_world(), "/events") as opened:
            await opened.until(": \n\n: \n\n: \n\n")
            assert not events(opened.text)

    run(play())


def test_streams_are_counted_and_limited() -> None:
    async def play() -> None:
        world = make_world(gateway_max_streams=2)
        async with stream(world, "/events") as one, stream(world, "/events") as two:
            await one.until(": ")
            await two.until(": ")
            async with stream(world, "/events") as three:
                await three.end()
                assert (three.status, three.headers["retry-after"]) == (503, "10")
        assert len(world.service.hub) == 0
        async with stream(world, "/events") as again:
            await again.until(": ")
            assert again.status == 200

    run(play())


def test_a_listener_that_has_left_twice_is_counted_once() -> None:
    async def play() -> None:
        hub = Hub(5)
        one, _other = hub.listen("a"), hub.listen("a")
        hub.leave("a", one)
        hub.leave("a", one)
        hub.leave("b", one)
        assert len(hub) == 1

    run(play())
