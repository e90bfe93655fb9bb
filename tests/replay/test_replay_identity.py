"""One id, several requests: how each stands, and what a replay says of it. Old manifests with seeds of 63 bits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from tests.delivery.conftest import sample_picture, sample_request
from tests.sim.worker import MODEL
from tests.test_lifecycle import Store
from worker.delivery.completed import completed_event
from worker.delivery.encode import encode_picture
from worker.delivery.finish import Finisher
from worker.delivery.keys import object_keys
from worker.delivery.manifest import build_manifest, dump_manifest
from worker.delivery.messages import MessageWriter
from worker.delivery.stored_manifest import load_manifest
from worker.errors import ErrorCode
from worker.events.types import (
    GenerationCompleted,
    GenerationFailed,
    GenerationRequest,
    GenerationStatus,
    JobStatus,
    Priority,
    timestamp,
)
from worker.intake.admit import AdmissionRules, derived_seed
from worker.job import Lane, Origin
from worker.replay.compare import flaws
from worker.replay.engine_driver import job_of_manifest
from worker.replay.plan import Item, Plan, Standing, items
from worker.replay.publish import Remaker
from worker.replay.selection import History, Requested, Selection, admit_again, by_job
from worker.settings import Settings
from worker.topics import Topics

SETTINGS = Settings(_env_file=None, aws_s3_bucket="b")
RULES = AdmissionRules(SETTINGS)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
OLD_SEED = 174151894793320618  # what derived_seed("job-1") was when it had 63 bits


def manifest_of(request: GenerationRequest, seed: int | None = None) -> dict[str, Any]:
    picture = sample_picture(request)
    encoded = encode_picture(
        picture.pixels, output_format="jpeg", jpeg_quality=90, thumbnail_px=64, job_id=request.job_id
    )
    manifest = build_manifest(
        picture,
        encoded,
        MODEL,
        lora_fingerprints={"ink": "f" * 64},
        worker_id="w",
        created_at=NOW,
        gpu_hourly_usd=None,
    )
    manifest["recipe"] |= {"prompt": request.prompt, "seed": derived_seed(request.job_id) if seed is None else seed}
    return load_manifest(dump_manifest(manifest))


def announced(manifest: dict[str, Any]) -> GenerationCompleted:
    return completed_event(
        manifest, url=str, priority=Priority.HIGH, worker_id="w", attempt=1, replay_id=None, completed_at=NOW
    )


def refused(girl_id: str) -> GenerationFailed:
    return GenerationFailed(
        job_id="job-1",
        girl_id=girl_id,
        error_code=ErrorCode.INVALID_REQUEST,
        error_message="used before",
        failed_at=timestamp(0),
    )


def requested(offset: int, **changes: Any) -> Requested:
    origin = Origin("generation.requests.high", 0, offset, 0)
    return Requested(sample_request(**changes), Lane.HIGH, origin, NOW.timestamp())


class Bytes(Store):
    def fetch(self, key: str) -> bytes | None:
        return self.objects.get(key)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture
def store() -> Bytes:
    """Holds the picture of `sample_request()`."""
    found = Bytes()
    found.objects[object_keys("girl-1", "job-1", "jpeg").manifest] = dump_manifest(manifest_of(sample_request()))
    return found


def standing(store: Bytes, pool: ThreadPoolExecutor, *records: Requested) -> Item:
    history = History(Selection())
    history.note(announced(manifest_of(sample_request())), 0)
    history.note(refused(records[-1].request.girl_id), 1)
    [item] = items(Plan(by_job(records), history), cast("Any", store), RULES, pool)
    return item


DIFFERENT = [{"prompt": "another"}, {"girl_id": "girl-2"}, {"user_id": 8}]


@pytest.mark.parametrize("change", DIFFERENT)
def test_of_several_requests_under_one_id_the_pictures_own_is_the_job(
    store: Bytes, pool: ThreadPoolExecutor, change: dict[str, Any]
) -> None:
    item = standing(store, pool, requested(0), requested(1, **change))
    assert (item.standing, item.requested.origin.offset) == (Standing.COMPLETED, 0)


@pytest.mark.parametrize("change", DIFFERENT)
def test_a_refused_request_stands_as_failed_where_the_pictures_own_is_not_selected(
    store: Bytes, pool: ThreadPoolExecutor, change: dict[str, Any]
) -> None:
    item = standing(store, pool, requested(1, **change))
    assert (item.standing, item.code, item.flaws) == (Standing.FAILED, ErrorCode.INVALID_REQUEST, ())


def test_a_manifest_of_which_the_completed_event_told_otherwise_is_tampered_with(
    store: Bytes, pool: ThreadPoolExecutor
) -> None:
    manifest = manifest_of(sample_request(prompt="put there by somebody"))
    manifest["picture"]["sha256"] = "0" * 64
    store.objects[object_keys("girl-1", "job-1", "jpeg").manifest] = dump_manifest(manifest)
    assert standing(store, pool, requested(0)).standing is Standing.TAMPERED


@pytest.mark.parametrize("change", [{"prompt": "another"}, {"user_id": 8}, {"num_inference_steps": 0}])
def test_a_replay_that_fails_it_again_leaves_the_pictures_status(
    store: Bytes, pool: ThreadPoolExecutor, change: dict[str, Any]
) -> None:
    item = standing(store, pool, requested(1, **change))
    finisher = Finisher(cast("Any", store), MODEL, SETTINGS)
    remaker = Remaker(
        cast("Any", store), MessageWriter(Topics(), "w"), RULES, pool, "r", lambda _: cast("Any", None), finisher
    )
    [ready] = remaker.results(iter([item]))
    assert ready.outcome is not None
    failed, status = (message.value for message in ready.outcome.messages)
    assert isinstance(failed, GenerationFailed)
    assert (failed.error_code, failed.replay_id) == (ErrorCode.INVALID_REQUEST, "r")
    assert isinstance(status, GenerationStatus)
    assert (status.status, status.error_code) == (JobStatus.COMPLETED, None)


class TestOldSeeds:
    def test_a_manifest_with_a_seed_of_63_bits_is_sound(self) -> None:
        request = sample_request()
        manifest = manifest_of(request, OLD_SEED)
        told = announced(manifest)
        job = admit_again(requested(0), RULES, NOW.timestamp())
        assert flaws(manifest, request, job, [told]) == []

    def test_what_it_told_then_agrees_with_it(self) -> None:
        request = sample_request()
        manifest = manifest_of(request, OLD_SEED)
        job = admit_again(requested(0), RULES, NOW.timestamp())
        events = [GenerationCompleted(**{**_fields(announced(manifest)), "seed": OLD_SEED})]
        assert flaws(manifest, request, job, events) == []

    def test_another_seed_is_found(self) -> None:
        job = admit_again(requested(0), RULES, NOW.timestamp())
        found = flaws(manifest_of(sample_request(), OLD_SEED + 1), sample_request(), job)
        assert "recipe.seed is not the request's" in found

    def test_it_is_made_again_and_told_with_what_counts_of_the_seed(self) -> None:
        manifest = manifest_of(sample_request(), OLD_SEED)
        item = Item(requested(0), Standing.COMPLETED, manifest)
        assert job_of_manifest(item, 0.0).seed == announced(manifest).seed == derived_seed("job-1")


def _fields(event: GenerationCompleted) -> dict[str, Any]:
    return {name: getattr(event, name) for name in GenerationCompleted.__dataclass_fields__}
