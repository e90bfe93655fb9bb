"""How a picture's LoRAs were applied, in its manifest, in the job that makes it again, and in a checkpoint's key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.delivery.conftest import sample_picture, sample_request
from worker.delivery.digest import pixels_digest
from worker.delivery.manifest import ModelInfo, dump_manifest
from worker.delivery.stored_manifest import load_manifest
from worker.job import Lane, LoraMethod
from worker.lora_method import LoraMethods, LoraMode
from worker.replay.engine_driver import job_of_manifest
from worker.replay.plan import Item, Standing
from worker.replay.selection import Requested

PICTURE = sample_picture(sample_request())
BARE = replace(PICTURE.job, loras=())
JOB = replace(PICTURE.job, loras=(("ink", 0.8),))


def again(manifest: dict[str, Any]) -> LoraMethod | None:
    stored = load_manifest(dump_manifest(manifest))
    item = Item(Requested(PICTURE.job.request, Lane.HIGH, JOB.origin, 0.0), Standing.COMPLETED, stored)
    return job_of_manifest(item, 0.0).lora_method


def with_lora(manifest: dict[str, Any], weight: float = 0.8, **model: Any) -> dict[str, Any]:
    loras = [{"name": "ink", "weight": weight, "fingerprint": "0123456789abcdef"}]
    kept = {name: value for name, value in manifest["model"].items() if name != "lora_method"}
    return manifest | {"recipe": manifest["recipe"] | {"loras": loras}, "model": kept | model}


def test_a_picture_is_made_again_as_its_manifest_states(make_manifest: Any) -> None:
    manifest = make_manifest()[1]
    assert again(with_lora(manifest, lora_method="merged")) is LoraMethod.MERGED
    assert again(with_lora(manifest, lora_method="hooks")) is LoraMethod.HOOKS


def test_an_older_manifest_means_hooks(make_manifest: Any) -> None:
    manifest = make_manifest()[1]
    assert again(with_lora(manifest)) is LoraMethod.HOOKS
    assert again(with_lora(manifest, weight=0.0)) is None


@pytest.mark.parametrize("stated", ["by hand", None, 3, ["merged"]])
def test_a_method_that_no_worker_has_is_refused(make_manifest: Any, stated: Any) -> None:
    with pytest.raises(ValueError, match="which no worker has"):
        again(with_lora(make_manifest()[1], lora_method=stated))


def test_the_key_of_a_checkpoint_holds_the_method_and_without_loras_none(model: ModelInfo) -> None:
    modes = [replace(model, lora_mode=mode) for mode in (LoraMode.MERGED, LoraMode.HOOKS)]
    assert [info.of(JOB)["lora_method"] for info in modes] == ["merged", "hooks"]
    assert len({pixels_digest(JOB, info.of(JOB)) for info in modes}) == 2
    assert len({pixels_digest(BARE, info.of(BARE)) for info in modes}) == 1
    weightless = replace(JOB, loras=(("ink", 0.0),))
    assert "lora_method" not in model.of(BARE).keys() | model.of(weightless).keys()


def test_mixed_calls_are_those_that_hold_several_rows(model: ModelInfo) -> None:
    small, large = (replace(JOB, request=replace(JOB.request, width=side, height=side)) for side in (64, 1024))
    methods = replace(model, lora_mode=LoraMode.MIXED).lora_methods
    assert [methods.of(job) for job in (small, large)] == [LoraMethod.HOOKS, LoraMethod.MERGED]
    assert LoraMethods(LoraMode.MIXED, None).of(large) is LoraMethod.HOOKS, "calls are not padded"
    assert methods.of(replace(small, lora_method=LoraMethod.MERGED)) is LoraMethod.MERGED
