"""What a worker says of the LoRAs that it will have merged."""

from __future__ import annotations

from tests.harness import small_request
from worker.job import Job, Lane, Origin
from worker.work_in_hand import WorkInHand


def job(offset: int, lane: Lane, loras: str = "") -> Job:
    return Job(
        request=small_request(),
        lane=lane,
        origin=Origin("t", 0, offset, 0),
        seed=7,
        loras=((loras, 1.0),) if loras else (),
        prompt="a lighthouse",
        negative_prompt=None,
        attempt=1,
        requested_at=0.0,
        received_at=0.0,
        expires_at=None,
    )


def test_the_lowest_lane_is_drawn_last_and_what_was_drawn_last_stays_merged() -> None:
    work = WorkInHand()
    assert work.loras == ""
    normal, urgent, plain = job(1, Lane.NORMAL, "x"), job(2, Lane.URGENT, "y"), job(3, Lane.NORMAL)
    for one in (normal, urgent, plain):
        work.on_admitted(one)
    work.on_started(urgent)
    assert work.loras == "x:1", "the picture that is stopped is drawn on"
    for one in (normal, plain):
        work.on_gone(one.origin)
    assert work.loras == "y:1"
    work.on_gone(urgent.origin)
    assert work.loras == "y:1"
