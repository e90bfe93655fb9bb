"""What is written of a picture that a preset decided: the manifest, the events, the replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.delivery.conftest import sample_picture, sample_request
from worker.delivery.completed import completed_event
from worker.delivery.encode import EncodedPicture
from worker.delivery.manifest import dump_manifest
from worker.delivery.messages import MessageWriter
from worker.delivery.stored_manifest import applied_preset, load_manifest
from worker.errors import ErrorCode
from worker.events.types import GenerationCompleted, GenerationStatus, JobStatus, Lora, Priority
from worker.failure import Failure
from worker.job import Lane
from worker.outcome import Message
from worker.presets import PRESETS
from worker.prompt_syntax import PromptSyntax
from worker.replay.compare import flaws
from worker.replay.engine_driver import job_of_manifest
from worker.replay.plan import Item, Standing
from worker.replay.selection import Requested
from worker.topics import Topics

Make = Callable[..., tuple[EncodedPicture, dict[str, Any]]]
PRESET = PRESETS["dmd2-4"]
WISH = {"num_inference_steps": 30, "guidance_scale": 7.5, "high_quality": True}
REQUEST = sample_request(**WISH)
JOB = replace(sample_picture(REQUEST).job, preset=PRESET)


@pytest.fixture
def stored(make_manifest: Make) -> dict[str, Any]:
    return load_manifest(dump_manifest(make_manifest(preset=PRESET, **WISH)[1]))


def announced(manifest: dict[str, Any]) -> GenerationCompleted:
    return completed_event(
        manifest,
        url=str,
        priority=Priority.HIGH,
        worker_id="w",
        attempt=1,
        replay_id=None,
        completed_at=datetime(2026, 3, 1, tzinfo=UTC),
    )


def test_the_completed_event_tells_what_the_preset_used(stored: dict[str, Any]) -> None:
    event = announced(stored)
    assert (event.num_inference_steps, event.guidance_scale) == (4, 0.0)
    assert (event.scheduler, event.high_quality) == ("LCMScheduler", False)
    assert event.refiner_fingerprint is None


def test_the_request_stays_as_it_was_sent(stored: dict[str, Any]) -> None:
    assert (stored["request"]["num_inference_steps"], stored["request"]["guidance_scale"]) == (30, 7.5)


def test_every_status_counts_the_steps_that_are_made() -> None:
    writer = MessageWriter(Topics(""), "w")
    messages: list[Message] = [writer.progress(JOB, JobStatus.RUNNING, 1.0, step=2).message]
    messages += writer.failed(Failure.of(JOB, ErrorCode.CANCELLED, "stopped"), 1.0).messages
    told = [m.value.num_inference_steps for m in messages if isinstance(m.value, GenerationStatus)]
    assert told == [4, 4]


def test_a_replay_draws_with_the_preset_of_that_time(stored: dict[str, Any]) -> None:
    stored["recipe"]["preset"]["timesteps"] = [998, 700, 400, 200]
    stored["recipe"]["prompt_syntax"] = "a1111"
    job = job_of_manifest(Item(Requested(REQUEST, Lane.HIGH, JOB.origin, 0.0), Standing.COMPLETED, stored), 0.0)
    assert job.preset == replace(PRESET, timesteps=(998, 700, 400, 200))
    assert job.prompt_syntax is PromptSyntax.A1111


def test_a_manifest_without_these_fields_is_of_a_plain_picture(make_manifest: Make) -> None:
    manifest = make_manifest()[1]
    del manifest["recipe"]["preset"], manifest["recipe"]["prompt_syntax"]
    stored = load_manifest(dump_manifest(manifest))
    assert applied_preset(stored["recipe"]) is None
    assert flaws(stored, sample_request(), sample_picture(sample_request()).job) == []


@pytest.mark.parametrize("preset", [JOB.preset, None, PRESETS["lcm-8"]])
def test_an_untouched_manifest_has_no_flaw_whatever_the_preset_is_now(stored: dict[str, Any], preset: Any) -> None:
    assert flaws(stored, REQUEST, replace(JOB, preset=preset), [announced(stored)]) == []


def test_the_lora_of_a_preset_is_no_flaw(stored: dict[str, Any]) -> None:
    with_its_lora = replace(JOB, loras=(("few", 1.0), ("ink", 0.8)))
    stored["recipe"]["loras"].insert(0, {"name": "few", "weight": 1.0, "fingerprint": "e" * 64})
    assert flaws(stored, REQUEST, with_its_lora, [announced(stored)]) == []
    stored["recipe"]["loras"][1]["weight"] = 0.1
    assert any("recipe.loras" in flaw for flaw in flaws(stored, REQUEST, with_its_lora))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_inference_steps": 30},
        {"guidance_scale": 7.5},
        {"scheduler": "EulerDiscreteScheduler"},
        {"high_quality": True},
        {"preset": None},
        {"preset": None, "num_inference_steps": 30, "guidance_scale": 7.5, "scheduler": "DPMSolverMultistepScheduler"},
    ],
)
def test_each_change_is_found(stored: dict[str, Any], changes: dict[str, Any]) -> None:
    event = announced(stored)
    stored["recipe"] |= changes
    assert flaws(stored, REQUEST, JOB, [event])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 5),
        ("num_inference_steps", "4"),
        ("timesteps", 5),
        ("timesteps", ["9"]),
        ("timesteps", [1]),
        ("eta", None),
    ],
)
def test_a_preset_that_is_none_is_no_manifest(stored: dict[str, Any], key: str, value: object) -> None:
    stored["recipe"]["preset"][key] = value
    with pytest.raises(ValueError, match="preset"):
        load_manifest(dump_manifest(stored))


def test_a_syntax_that_is_unknown_is_no_manifest(stored: dict[str, Any]) -> None:
    stored["recipe"]["prompt_syntax"] = "comfy"
    with pytest.raises(ValueError, match="comfy"):
        load_manifest(dump_manifest(stored))


def test_the_request_may_still_name_its_own_loras(make_manifest: Make) -> None:
    manifest = make_manifest(preset=PRESET, loras=(Lora(name="ink", weight=0.8),))[1]
    assert flaws(manifest, sample_request(), replace(JOB, request=sample_request())) == []
