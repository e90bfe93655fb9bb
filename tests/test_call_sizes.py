"""The sizes of UNet calls: what the table says, what overrides it, and what manifests say of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.engine.scenario import make_job
from worker.call_sizes import CallSizes, stated_samples
from worker.job import Job

GUIDED, PLAIN = 7.5, 1.0


def job(side_px: int, guidance: float = GUIDED) -> Job:
    made = make_job("a", guidance=guidance)
    return replace(made, request=replace(made.request, width=side_px, height=side_px))


@pytest.mark.parametrize("side_px", [64, 512, 1024])
def test_a_card_that_is_not_in_the_table_gets_one_pair(side_px: int) -> None:
    for device in ("NVIDIA GeForce RTX 2080 Ti", "mps", "none", ""):
        assert CallSizes(device, "float16").of(job(side_px)) == 2


@pytest.mark.parametrize(
    ("device", "at_512", "at_768"),
    [
        ("NVIDIA GeForce RTX 4090", 8, 4),
        ("NVIDIA L40S", 8, 4),
        ("NVIDIA A100-SXM4-80GB", 12, 6),
        ("NVIDIA H100 80GB HBM3", 16, 8),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 2, 2),
        ("NVIDIA GeForce RTX 4090 D", 2, 2),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 2, 2),
        ("NVIDIA L4", 2, 2),
    ],
)
def test_small_pictures_share_a_call_of_a_known_card_and_one_of_1024_has_it_alone(
    device: str, at_512: int, at_768: int
) -> None:
    sizes = CallSizes(device, "bfloat16")
    assert [sizes.of(job(side)) for side in (512, 768, 1024)] == [at_512, at_768, 2]


def test_other_precisions_of_a_known_card_are_not_in_the_table() -> None:
    assert CallSizes("NVIDIA GeForce RTX 4090", "float32").of(job(512)) == 2


def test_on_a_cpu_only_toy_pictures_share_a_call() -> None:
    sizes = CallSizes("cpu", "float32")
    assert [sizes.of(job(side)) for side in (64, 88, 96, 128, 512)] == [8, 8, 2, 2, 2]


def test_a_row_without_guidance_alone_fills_a_call_as_a_guided_one_does() -> None:
    sizes = CallSizes("NVIDIA H100 80GB HBM3", "bfloat16")
    assert [sizes.of(job(side, PLAIN)) for side in (512, 1024)] == [8, 1]


@pytest.mark.parametrize("guidance", [GUIDED, PLAIN])
def test_slots_set_the_size_of_every_call_as_they_did(guidance: float) -> None:
    assert CallSizes("cpu", "float32", slots=4).of(job(1024, guidance)) == 8


def test_a_job_that_is_made_again_has_the_size_of_its_manifest() -> None:
    assert CallSizes("cpu", "float32", slots=4).of(replace(job(1024), call_samples=6)) == 6


@pytest.mark.parametrize(
    ("model", "samples"),
    [
        ({"deterministic": True, "call_samples": 2}, 2),
        ({"deterministic": True, "slots": 4}, 8),
        ({"deterministic": False, "slots": 4}, None),
        ({"deterministic": False, "call_samples": None}, None),
        ({"deterministic": True}, None),
        ({}, None),
    ],
)
def test_a_manifest_states_the_size_in_either_form(model: dict[str, Any], samples: int | None) -> None:
    assert stated_samples(model, guided=True) == samples


@pytest.mark.parametrize("value", [0, -2, 3, 130, 10**9, "8", None, 2.0])
def test_a_size_that_no_worker_has_is_refused_with_a_sentence(value: object) -> None:
    with pytest.raises(ValueError, match=r"the manifest states calls of .* samples, which no worker has"):
        stated_samples({"deterministic": True, "call_samples": value}, guided=True)


def test_the_slots_of_an_old_manifest_are_bounded_too() -> None:
    with pytest.raises(ValueError, match="no worker has"):
        stated_samples({"deterministic": True, "slots": 65}, guided=True)
