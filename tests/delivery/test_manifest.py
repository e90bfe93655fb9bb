from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.delivery.completed import completed_event
from worker.delivery.digest import request_digest
from worker.delivery.encode import EncodedPicture
from worker.delivery.keys import legacy_manifest_key, object_keys
from worker.delivery.manifest import dump_manifest
from worker.delivery.stored_manifest import applied_profile, load_manifest, stored_request
from worker.events.types import (
    GenerationCompleted,
    GenerationRequest,
    Lora,
    OutputFormat,
    Priority,
)
from worker.job import AppliedProfile

pytestmark = pytest.mark.filterwarnings("ignore:Image.Image.getdata:DeprecationWarning")

MakeManifest = Callable[..., tuple[EncodedPicture, dict[str, Any]]]

VALID_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", re.ASCII)
NOW = datetime(2026, 3, 1, 12, 0, 6, tzinfo=UTC)
REQUEST = GenerationRequest(job_id="j", girl_id="g", user_id=1, prompt="p")


def event_of(manifest: dict[str, Any], **changes: Any) -> GenerationCompleted:
    arguments: dict[str, Any] = {
        "url": "https://cdn.example/{}".format,
        "priority": Priority.HIGH,
        "worker_id": "worker-2",
        "attempt": 3,
        "replay_id": None,
        "completed_at": NOW,
    }
    return completed_event(manifest, **(arguments | changes))


# keys


@pytest.mark.parametrize(("output_format", "extension"), [("jpeg", "jpg"), ("webp", "webp"), ("png", "png")])
def test_keys_follow_the_contract(output_format: str, extension: str) -> None:
    keys = object_keys("g", "j", output_format)
    assert keys.image == f"generated/g/j.{extension}"
    assert keys.thumbnail == "generated/g/j_thumb.jpg"
    assert keys.manifest == "manifests/g/j.json"


@pytest.mark.parametrize(
    "bad", ["", ".", "..", ".a", "a/b", "../x", "a\n", "a b", "é", "٣", "a\0", "a" * 129, "a%2fb", "a\\b"]
)
def test_ids_outside_the_alphabet_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="girl_id"):
        object_keys(bad, "j", "jpeg")
    with pytest.raises(ValueError, match="job_id"):
        object_keys("g", bad, "jpeg")


def test_a_job_cannot_overwrite_the_thumbnail_of_another() -> None:
    with pytest.raises(ValueError, match="_thumb"):
        object_keys("g", "j_thumb", "jpeg")


@pytest.mark.parametrize("unknown", ["unknown", "gif", ""])
def test_an_unknown_format_has_no_keys(unknown: str) -> None:
    with pytest.raises(ValueError, match="output_format"):
        object_keys("g", "j", unknown)


ids = st.one_of(st.text(max_size=8), st.from_regex(r"[A-Za-z0-9._/-]{0,6}(\.\./)?(_thumb)?\n?", fullmatch=True))


@given(ids, ids, st.sampled_from(["jpeg", "webp", "png"]))
def test_no_key_escapes_its_folder(girl_id: str, job_id: str, output_format: str) -> None:
    try:
        keys = object_keys(girl_id, job_id, output_format)
    except ValueError:
        legal = VALID_ID.fullmatch(girl_id) and VALID_ID.fullmatch(job_id)
        assert not legal or job_id.endswith("_thumb")
        return
    for key in (keys.image, keys.thumbnail, keys.manifest):
        assert posixpath.normpath(key) == key
        assert posixpath.dirname(key) == f"{'manifests' if key == keys.manifest else 'generated'}/{girl_id}"


plain_ids = st.from_regex(r"[ab]{1,2}(_thumb|\.jpg|\.json|\.png)?", fullmatch=True)


@given(plain_ids, plain_ids, *[st.sampled_from(["jpeg", "webp", "png"])] * 2)
def test_two_jobs_never_share_a_key(one: str, other: str, format_1: str, format_2: str) -> None:
    if one == other or one.endswith("_thumb") or other.endswith("_thumb"):
        return
    first, second = object_keys("g", one, format_1), object_keys("g", other, format_2)
    assert not {first.image, first.thumbnail, first.manifest} & {
        second.image,
        second.thumbnail,
        second.manifest,
    }


# manifest


def test_a_manifest_survives_storage(make_manifest: MakeManifest, output_format: OutputFormat) -> None:
    _, manifest = make_manifest(output_format=output_format)
    data = dump_manifest(manifest)
    assert load_manifest(data) == manifest
    assert dump_manifest(load_manifest(data)) == data


def test_the_manifest_names_the_profile(make_manifest: MakeManifest) -> None:
    recipe = load_manifest(dump_manifest(make_manifest(profile=AppliedProfile("mia", "ab"))[1]))["recipe"]
    assert recipe["profile"] == {"name": "mia", "fingerprint": "ab"}
    assert applied_profile(recipe) == AppliedProfile("mia", "ab")
    assert applied_profile({}) is None


@pytest.mark.parametrize("profile", [5, "mia", {}, {"name": "mia"}, {"name": "mia", "fingerprint": 5}])
def test_a_profile_that_is_none_is_no_manifest(make_manifest: MakeManifest, profile: object) -> None:
    manifest = make_manifest()[1]
    manifest["recipe"]["profile"] = profile
    with pytest.raises(ValueError, match=r"recipe\.profile"):
        load_manifest(dump_manifest(manifest))


def test_the_manifest_holds_what_makes_the_picture_again(make_manifest: MakeManifest) -> None:
    encoded, manifest = make_manifest()
    assert manifest["recipe"] == {
        "prompt": "a lighthouse, warm smile",
        "negative_prompt": "fog",
        "seed": 2**31 + 1,
        "num_inference_steps": 30,
        "guidance_scale": 7.5,
        "width": 128,
        "height": 96,
        "scheduler": "DPMSolverMultistepScheduler",
        "high_quality": False,
        "loras": [{"name": "ink", "weight": 0.8, "fingerprint": "f" * 64}],
        "profile": None,
        "preset": None,
        "prompt_syntax": "literal",
    }
    assert manifest["model"]["versions"] == {"torch": "2.15.0", "diffusers": "0.42.0"}
    assert manifest["model"]["call_samples"] == 2
    assert manifest["picture"]["pixel_sha256"] == encoded.pixel_sha256
    assert manifest["keys"]["image"] == "generated/girl-1/job-1.jpg"
    assert manifest["run"]["lane"] == "high"


def test_a_picture_that_was_made_short_of_memory_is_not_called_deterministic(make_manifest: MakeManifest) -> None:
    assert make_manifest()[1]["model"]["deterministic"] is True
    assert make_manifest(reproducible=False)[1]["model"]["deterministic"] is False


def test_the_request_comes_back_as_it_was(make_manifest: MakeManifest) -> None:
    _, manifest = make_manifest(expires_at=NOW, seed=5, high_quality=True)
    request = stored_request(load_manifest(dump_manifest(manifest)))
    assert request.expires_at == NOW
    assert request.loras == (Lora(name="ink", weight=0.8),)
    assert request_digest(request) == manifest["request_digest"]


def test_the_completed_event_tells_what_was_used(make_manifest: MakeManifest) -> None:
    encoded, manifest = make_manifest()
    event = event_of(manifest)
    assert event.image_url == "https://cdn.example/generated/girl-1/job-1.jpg"
    assert event.thumbnail_url == "https://cdn.example/generated/girl-1/job-1_thumb.jpg"
    assert event.manifest_url == "https://cdn.example/manifests/girl-1/job-1.json"
    assert (event.generation_time, event.queue_time, event.gpu_seconds) == (2.25, 1.5, 1.8)
    assert event.cost_usd == pytest.approx(1.8 * 2.0 / 3600)
    assert (event.sha256, event.byte_count) == (encoded.sha256, len(encoded.data))
    assert (event.seed, event.prompt) == (2**31 + 1, "a lighthouse, warm smile")
    assert (event.affection_level, event.nsfw_level, event.nsfw_score) == (50, 30, 0.125)
    assert event.loras == (Lora(name="ink", weight=0.8),)
    assert event.lora_fingerprints == {"ink": "f" * 64}
    assert event.model_fingerprint == "b" * 64
    assert event.completed_at == NOW


def test_the_event_made_again_from_storage_is_the_same(make_manifest: MakeManifest) -> None:
    _, manifest = make_manifest()
    stored = load_manifest(dump_manifest(manifest))
    assert event_of(stored) == event_of(manifest)
    again = event_of(stored, worker_id="w9", attempt=1, replay_id="r", priority=Priority.NORMAL)
    assert again == replace(event_of(manifest), worker_id="w9", attempt=1, replay_id="r", priority=Priority.NORMAL)


def test_the_refiner_is_named_only_where_it_was_used(make_manifest: MakeManifest) -> None:
    assert event_of(make_manifest()[1]).refiner_fingerprint is None
    assert event_of(make_manifest(high_quality=True)[1]).refiner_fingerprint == "r" * 64


def test_without_an_hourly_price_there_is_no_cost(make_manifest: MakeManifest) -> None:
    assert event_of(make_manifest(gpu_hourly_usd=None)[1]).cost_usd is None


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"manifest_version": 2}',
        b'{"manifest_version": true}',
    ],
)
def test_junk_is_no_manifest(junk: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each is another message
        load_manifest(junk)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_manifest_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        load_manifest(data)


def test_every_field_that_the_event_needs_is_checked(make_manifest: MakeManifest) -> None:
    _, manifest = make_manifest()
    checked = 0
    for path in needed(manifest):
        for broken in (deep_copy(manifest), deep_copy(manifest)):
            parent = broken
            for name in path[:-1]:
                parent = parent[name]
            if checked % 2:
                del parent[path[-1]]
            else:
                parent[path[-1]] = {"no": "such type"}
            checked += 1
            with pytest.raises(ValueError, match="manifest"):
                load_manifest(dump_manifest(broken))
    assert checked > 50


@pytest.mark.parametrize("bad", ["../escape", "", ".hidden"])
def test_a_manifest_with_an_evil_id_is_refused(make_manifest: MakeManifest, bad: str) -> None:
    _, manifest = make_manifest()
    with pytest.raises(ValueError, match="job_id"):
        load_manifest(dump_manifest(manifest | {"job_id": bad}))


def deep_copy(manifest: dict[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(manifest))
    return copied


def needed(manifest: dict[str, Any]) -> list[tuple[str, ...]]:
    """The fields that `load_manifest` answers for, found by what `completed_event` reads."""
    read: list[tuple[str, ...]] = []

    class Spy(dict[str, Any]):
        path: tuple[str, ...] = ()

        def __getitem__(self, name: str) -> Any:
            value = super().__getitem__(name)
            path = (*self.path, name)
            if not isinstance(value, dict):
                read.append(path)
                return value
            inner = Spy(value)
            inner.path = path
            return inner

    event_of(Spy(manifest))
    return sorted(set(read))


def test_the_event_of_a_picture_of_version_1_0_names_where_its_manifest_lies(make_manifest: MakeManifest) -> None:
    _, manifest = make_manifest()
    manifest["keys"]["manifest"] = legacy_manifest_key("girl-1", "job-1")
    assert event_of(manifest).manifest_url == "https://cdn.example/generated/girl-1/job-1.json"
    manifest["keys"]["manifest"] = "generated/another/job.json"
    assert event_of(manifest).manifest_url == "https://cdn.example/manifests/girl-1/job-1.json"
