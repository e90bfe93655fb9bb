"""Whether steps were compiled: in a picture's manifest, in the job that makes it again, and in a checkpoint's key."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.delivery.conftest import sample_picture, sample_request
from worker.delivery.digest import pixels_digest
from worker.delivery.encode import encode_picture
from worker.delivery.manifest import ModelInfo, build_manifest, dump_manifest
from worker.delivery.stored_manifest import load_manifest
from worker.job import Lane
from worker.replay.engine_driver import job_of_manifest
from worker.replay.plan import Item, Standing
from worker.replay.selection import Requested

PICTURE = sample_picture(sample_request())
JOB = PICTURE.job


def again(manifest: dict[str, Any]) -> bool | None:
    stored = load_manifest(dump_manifest(manifest))
    item = Item(Requested(PICTURE.job.request, Lane.HIGH, JOB.origin, 0.0), Standing.COMPLETED, stored)
    return job_of_manifest(item, 0.0).compiled


@pytest.mark.parametrize("compiled", [True, False])
def test_a_picture_is_made_again_on_the_path_that_its_manifest_states(model: ModelInfo, compiled: bool) -> None:
    encoded = encode_picture(PICTURE.pixels, output_format="jpeg", jpeg_quality=90, thumbnail_px=64, job_id="job-1")
    manifest = build_manifest(
        replace(PICTURE, compiled=compiled),
        encoded,
        model,
        lora_fingerprints={"ink": "f" * 64},
        worker_id="w",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        gpu_hourly_usd=None,
    )
    assert (manifest["model"]["compiled"], again(manifest)) == (compiled, compiled)


def test_an_older_manifest_is_of_a_worker_without_compiled_steps(make_manifest: Any) -> None:
    manifest = make_manifest()[1]
    del manifest["model"]["compiled"]
    assert again(manifest) is False


def test_a_picture_that_cannot_be_made_again_leaves_it_to_the_worker(make_manifest: Any) -> None:
    assert again(make_manifest(reproducible=False)[1]) is None


def test_a_manifest_that_says_neither_is_refused(make_manifest: Any) -> None:
    manifest = make_manifest()[1]
    manifest["model"]["compiled"] = "maybe"
    with pytest.raises(ValueError, match=r"model\.compiled is neither true nor false: 'maybe'"):
        again(manifest)


def test_the_key_of_a_checkpoint_holds_what_is_compiled_and_how_it_is_computed(model: ModelInfo) -> None:
    keys = {
        pixels_digest(JOB, replace(model, **change).of(JOB))
        for change in ({}, {"buckets": ("a",)}, {"buckets": ("a", "b")}, {"numerics": {"vae": "bfloat16"}})
    }
    assert len(keys) == 4


def test_the_key_of_a_worker_without_them_is_as_it_was(model: ModelInfo) -> None:
    assert {"buckets", "numerics", "compiled"}.isdisjoint(model.of(JOB))
