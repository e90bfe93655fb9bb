"""The size of a picture's UNet calls in its manifest, in the job that makes it again, and in a checkpoint's key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.delivery.conftest import sample_picture, sample_request
from worker.call_sizes import CallSizes
from worker.delivery.digest import pixels_digest
from worker.delivery.manifest import ModelInfo, dump_manifest
from worker.delivery.stored_manifest import load_manifest
from worker.job import Lane
from worker.replay.engine_driver import job_of_manifest
from worker.replay.plan import Item, Standing
from worker.replay.selection import Requested

PICTURE = sample_picture(sample_request())
JOB = PICTURE.job


def again(manifest: dict[str, Any]) -> int | None:
    stored = load_manifest(dump_manifest(manifest))
    item = Item(Requested(PICTURE.job.request, Lane.HIGH, JOB.origin, 0.0), Standing.COMPLETED, stored)
    return job_of_manifest(item, 0.0).call_samples


def test_a_picture_is_made_again_with_the_calls_that_its_manifest_states(make_manifest: Any) -> None:
    manifest = make_manifest()[1]
    assert (manifest["model"]["call_samples"], again(manifest)) == (2, 2)


def test_an_older_manifest_states_them_as_slots(make_manifest: Any) -> None:
    manifest = make_manifest()[1]
    del manifest["model"]["call_samples"]
    manifest["model"]["slots"] = 4
    assert again(manifest) == 8


def test_a_manifest_with_calls_that_no_worker_has_is_refused(make_manifest: Any) -> None:
    manifest = make_manifest()[1]
    manifest["model"]["call_samples"] = 1_000_000
    with pytest.raises(ValueError, match="calls of 1000000 samples, which no worker has"):
        again(manifest)


def test_without_determinism_no_size_is_stated(model: ModelInfo) -> None:
    assert replace(model, deterministic=False).of(JOB)["call_samples"] is None


def test_the_key_of_a_checkpoint_holds_the_size(model: ModelInfo) -> None:
    keys = {
        pixels_digest(JOB, replace(model, calls=CallSizes("cpu", "float32", slots)).of(JOB)) for slots in (None, 4, 8)
    }
    assert len(keys) == 3
    same = replace(model, calls=CallSizes("cpu", "float32", slots=1)).of(JOB)
    assert pixels_digest(JOB, same) == pixels_digest(JOB, model.of(JOB)), "one pair, whoever said so"
