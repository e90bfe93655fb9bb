"""Signs that a manifest was changed, and reasons why the same recipe gives other pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.delivery.conftest import sample_picture, sample_request
from worker.delivery.completed import completed_event
from worker.delivery.encode import EncodedPicture
from worker.delivery.manifest import ModelInfo, dump_manifest
from worker.delivery.stored_manifest import load_manifest
from worker.events.types import GenerationCompleted, Priority
from worker.job import AppliedProfile
from worker.replay.compare import flaws, picture_flaws, reasons

Make = Callable[..., tuple[EncodedPicture, dict[str, Any]]]
JOB = sample_picture(sample_request()).job


@pytest.fixture
def stored(make_manifest: Make) -> dict[str, Any]:
    """A manifest as it comes back from S3."""
    return load_manifest(dump_manifest(make_manifest()[1]))


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


def changed(manifest: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(manifest))
    *way, last = path.split(".")
    part = copy
    for name in way:
        part = part[name]
    part[last] = value
    return copy


def test_a_manifest_as_it_was_written_has_no_flaw(stored: dict[str, Any]) -> None:
    assert flaws(stored, sample_request(), JOB, [announced(stored)]) == []


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("request_digest", "0" * 64, "request_digest"),
        ("request.prompt", "another", "request_digest"),
        ("request.width", "wide", "request_digest"),
        ("recipe.seed", 5, "recipe.seed"),
        ("recipe.prompt", "another", "recipe.prompt"),
        ("recipe.num_inference_steps", 31, "recipe.num_inference_steps"),
        ("recipe.width", 64, "recipe.width"),
        ("recipe.loras", [], "recipe.loras"),
        ("user_id", 8, "user_id"),
        ("keys.image", "generated/girl-1/other.jpg", "keys"),
        ("picture.content_type", "image/png", "picture.output_format"),
        ("picture.sha256", "0" * 64, "completed event"),
        ("recipe.negative_prompt", "another", "completed event"),
        ("model.model_fingerprint", "x", "completed event"),
    ],
)
def test_each_change_is_found(stored: dict[str, Any], path: str, value: object, named: str) -> None:
    found = flaws(changed(stored, path, value), sample_request(), JOB, [announced(stored)])
    assert any(named in flaw for flaw in found), found


def test_a_recipe_that_is_older_than_a_field_had_its_default(stored: dict[str, Any]) -> None:
    del stored["recipe"]["high_quality"]
    assert flaws(stored, sample_request(), JOB) == []
    assert "recipe.high_quality is not the request's" in flaws(stored, sample_request(high_quality=True), JOB)


def test_a_manifest_of_version_1_0_lies_elsewhere(stored: dict[str, Any]) -> None:
    stored["keys"]["manifest"] = "generated/girl-1/job-1.json"
    assert flaws(stored, sample_request(), JOB) == []


def test_a_manifest_and_its_request_changed_together_do_not_match_the_record(make_manifest: Make) -> None:
    other = make_manifest(prompt="another")[1]
    assert any("record" in flaw for flaw in flaws(other, sample_request(), JOB))


def test_one_completed_event_that_agrees_is_enough(stored: dict[str, Any]) -> None:
    event = announced(stored)
    assert flaws(stored, sample_request(), JOB, [replace(event, sha256="x"), event]) == []


def test_a_request_that_is_no_longer_admitted_is_still_compared(stored: dict[str, Any]) -> None:
    assert flaws(stored, sample_request(), None) == []
    assert flaws(changed(stored, "recipe.height", 8), sample_request(), None)


@pytest.fixture
def profiled(stored: dict[str, Any]) -> dict[str, Any]:
    """As it would be with a profile: composed, and a LoRA more than the request has."""
    loras = [{"name": "face", "weight": 0.8, "fingerprint": "e" * 64}, *stored["recipe"]["loras"]]
    return changed(changed(stored, "recipe.profile", {"name": "mia", "fingerprint": "ab"}), "recipe.loras", loras)


MIA = replace(JOB, profile=AppliedProfile("mia", "ab"), loras=(("face", 0.8), ("ink", 0.8)))


def test_with_the_same_profile_the_composition_is_compared(profiled: dict[str, Any]) -> None:
    assert flaws(profiled, sample_request(), MIA, [announced(profiled)]) == []
    assert flaws(changed(profiled, "recipe.prompt", "another"), sample_request(), MIA)
    assert flaws(changed(profiled, "recipe.loras", profiled["recipe"]["loras"][1:]), sample_request(), MIA)


def test_a_profile_that_was_changed_since_is_no_flaw_and_the_event_tells_what_it_said(profiled: dict[str, Any]) -> None:
    for later in (
        replace(MIA, profile=AppliedProfile("mia", "cd"), prompt="other"),
        replace(MIA, profile=None),
        None,
    ):
        assert flaws(profiled, sample_request(), later, [announced(profiled)]) == []
        found = flaws(changed(profiled, "recipe.prompt", "forged"), sample_request(), later, [announced(profiled)])
        assert found == ["the completed event describes another picture"]
        assert flaws(changed(profiled, "recipe.loras", []), sample_request(), later)


def test_a_picture_of_a_time_without_profiles_is_held_to_the_requests_own_prompt(stored: dict[str, Any]) -> None:
    old = changed(stored, "recipe.prompt", sample_request().prompt)
    del old["recipe"]["profile"]
    assert flaws(load_manifest(dump_manifest(old)), sample_request(), MIA) == []
    assert flaws(changed(old, "recipe.prompt", "forged"), sample_request(), MIA) == [
        "recipe.prompt is not the request's"
    ]


def test_the_images_bytes_are_held_to_the_manifest(make_manifest: Make) -> None:
    encoded, manifest = make_manifest()
    assert picture_flaws(manifest, encoded.data) == []
    assert "bytes" in picture_flaws(manifest, encoded.data + b"x")[0]
    assert "missing" in picture_flaws(manifest, None)[0]


LORAS = {"ink": "f" * 64}


def test_the_same_circumstances_give_no_reason(stored: dict[str, Any], model: ModelInfo) -> None:
    assert reasons(stored, model, LORAS, reproducible=True) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_fingerprint": "x"}, "model"),
        ({"device": "NVIDIA H100"}, "device"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"embeddings_fingerprint": "x"}, "embeddings"),
        ({"vae_tile_px": 512}, "tiles of the VAE"),
        ({"versions": {"torch": "2.16.0", "diffusers": "0.42.0"}}, "version torch"),
        ({"deterministic": False}, "deterministic"),
        ({"numerics": {"accumulation": "float16"}}, "numerics accumulation"),
        ({"versions": {"torch": "2.15.0", "diffusers": "0.42.0", "cudnn": "91300"}}, "version cudnn"),
    ],
)
def test_each_circumstance_is_a_reason(
    stored: dict[str, Any], model: ModelInfo, change: dict[str, Any], named: str
) -> None:
    [reason] = reasons(stored, replace(model, **change), LORAS, reproducible=True)
    assert reason.startswith(f"{named}: ")


def test_another_lora_file_is_a_reason(stored: dict[str, Any], model: ModelInfo) -> None:
    [reason] = reasons(stored, model, {"ink": "e" * 64}, reproducible=True)
    assert reason.startswith("lora ink: ")


def test_short_memory_is_a_reason(stored: dict[str, Any], model: ModelInfo) -> None:
    assert reasons(stored, model, LORAS, reproducible=False) == [
        "deterministic: the picture is not made deterministically now"
    ]


@pytest.mark.parametrize("then", [True, False])
def test_compiled_steps_are_a_reason(stored: dict[str, Any], model: ModelInfo, then: bool) -> None:
    stored["model"]["compiled"] = then
    assert reasons(stored, model, LORAS, reproducible=True, compiled=then) == []
    [reason] = reasons(stored, model, LORAS, reproducible=True, compiled=not then)
    assert reason == f"compiled: {then} then, {not then} now"


def test_the_refiner_counts_only_where_it_was_used(make_manifest: Make, model: ModelInfo) -> None:
    other = replace(model, refiner_fingerprint="x")
    assert reasons(make_manifest()[1], other, LORAS, reproducible=True) == []
    [reason] = reasons(make_manifest(high_quality=True)[1], other, LORAS, reproducible=True)
    assert reason.startswith("refiner: ")
