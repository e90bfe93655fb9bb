"""What fits which card, and which settings are told where something does not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import ModelLoadError, SettingsError
from worker.memory_plan.cards import GIB, card_named, card_of_size, known_cards
from worker.memory_plan.cures import cure
from worker.memory_plan.plan import GRAPH_BYTES, Models, Wishes, make_plan
from worker.memory_plan.refusal import refuse
from worker.memory_plan.weights import SDXL_BASE, SDXL_REFINER

BASE, BOTH = Models(SDXL_BASE), Models(SDXL_BASE, SDXL_REFINER)
BF16, FP16, FP32 = (Wishes(dtype=dtype) for dtype in ("bfloat16", "float16", "float32"))


@pytest.mark.parametrize(("models", "wishes", "gigabytes"), [(BASE, BF16, 6.9), (BOTH, BF16, 11.5), (BASE, FP32, 13.9)])
def test_weights_are_those_of_the_published_files(models: Models, wishes: Wishes, gigabytes: float) -> None:
    assert make_plan(models, wishes, card_named("H100")).weights == pytest.approx(gigabytes * 1e9, rel=0.01)


def test_a_plain_run_of_1024_peaks_where_others_measured_it() -> None:
    plan = make_plan(BASE, replace(BF16, max_pixels=1024 * 1024), card_named("RTX 4090"))
    assert plan.needed == pytest.approx(9.1e9, rel=0.03)


@pytest.mark.parametrize(
    ("card", "models", "wishes", "tile_px"),
    [
        ("RTX 4090", BOTH, BF16, None),
        ("RTX 3060 12GB", BASE, BF16, None),
        ("RTX 2080 Ti", BASE, FP16, 512),
        ("RTX 4060", BASE, BF16, 512),
        ("RTX 2070", BASE, FP16, 256),
        ("T4", BOTH, FP16, 512),
    ],
)
def test_small_cards_decode_in_tiles_from_the_start(
    card: str, models: Models, wishes: Wishes, tile_px: int | None
) -> None:
    plan = make_plan(models, wishes, card_named(card))
    assert plan.fits
    assert plan.tile_px == tile_px


@pytest.mark.parametrize(("tile", "tile_px"), [("none", None), ("512", 512), ("256", 256)])
def test_a_setting_for_tiles_is_obeyed(tile: str, tile_px: int | None) -> None:
    for card in ("RTX 4090", "RTX 2070"):
        assert make_plan(BASE, replace(FP16, tile=tile), card_named(card)).tile_px == tile_px


def test_the_second_copy_for_loras_is_there_where_there_is_room() -> None:
    wishes = replace(BF16, loras=True)
    assert make_plan(BASE, wishes, card_named("RTX 4090")).lora_copy == SDXL_BASE.count("unet") * 2
    assert make_plan(BASE, wishes, card_named("RTX 3060 12GB")).lora_copy == 0
    assert make_plan(BASE, BF16, card_named("RTX 4090")).lora_copy == 0


def test_captured_steps_count_for_every_stage_and_again_for_the_second_copy() -> None:
    card, sizes = card_named("RTX 4090"), (64 * 64, 128 * 128)
    asked = replace(BF16, compiled=sizes)
    step = make_plan(BASE, replace(BF16, max_pixels=1024 * 1024), card).buckets[-1].step
    for models, wishes, graphs in (
        (BASE, asked, 2),
        (BASE, replace(asked, loras=True), 4),
        (BOTH, asked, 4),
    ):
        plan, without = make_plan(models, wishes, card), make_plan(models, replace(wishes, compiled=()), card)
        assert plan.graphs == pytest.approx(step + graphs * GRAPH_BYTES, rel=0.25)
        assert plan.total == without.total + plan.graphs
        assert plan.needed == without.needed, "a worker without room for them draws eagerly"
    assert make_plan(BOTH, replace(asked, refiner_offload=True), card).graphs == 0


def test_captured_steps_never_change_how_pictures_are_decoded() -> None:
    for card in known_cards():
        wishes = replace(BF16, dtype=card.dtype)
        many = replace(wishes, compiled=(128 * 128,) * 50)
        assert make_plan(BASE, many, card).tile_px == make_plan(BASE, wishes, card).tile_px


@pytest.mark.parametrize(
    ("card", "models", "wishes", "settings"),
    [
        ("RTX 3060 12GB", BOTH, BF16, "REFINER_OFFLOAD=true"),
        ("RTX 2070", BOTH, FP16, "REFINER_OFFLOAD=true"),
        ("RTX 2070", BASE, replace(FP16, tile="none"), "VAE_TILE_PX=auto"),
        ("RTX 2070", BOTH, replace(FP16, tile="none"), "VAE_TILE_PX=auto and REFINER_OFFLOAD=true"),
        ("RTX 3060 12GB", BASE, FP32, "DTYPE=auto"),
        ("RTX 4060", BASE, replace(BF16, slots=64), "SLOTS=1"),
        ("RTX 4060", BASE, replace(BF16, lora_bytes=10**9, largest_lora=10**8), "LORA_CACHE_SIZE=1"),
        ("RTX 4060", BASE, replace(BF16, max_pixels=4096 * 4096), "MAX_PIXELS=1048576"),
        ("RTX 2060 6GB", BOTH, FP16, None),
    ],
)
def test_the_smallest_change_that_would_fit_is_told(
    card: str, models: Models, wishes: Wishes, settings: str | None
) -> None:
    plan = make_plan(models, wishes, card_named(card))
    assert not plan.fits
    assert cure(models, wishes, plan) == settings
    with pytest.raises(SettingsError) as told:
        refuse(models, wishes, plan, None)
    message = str(told.value)
    assert "\n" not in message
    assert (f"set {settings} (" if settings else "no settings would fit: use a larger card") in message


def test_memory_that_others_have_taken_is_not_the_settings_fault() -> None:
    plan = make_plan(BASE, BF16, card_named("RTX 4090"))
    refuse(BASE, BF16, plan, 20 * GIB)
    with pytest.raises(ModelLoadError, match=re.escape("has 5.4 GB free of 25.0")) as told:
        refuse(BASE, BF16, plan, 5 * GIB)
    assert "nvidia-smi" in str(told.value)


wished = st.builds(
    Wishes,
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    refiner_offload=st.booleans(),
    max_pixels=st.integers(64, 4096**2),
    tile=st.sampled_from(["auto", "none", "512", "256"]),
    slots=st.none() | st.integers(1, 64),
    rows=st.none() | st.integers(1, 64),
    loras=st.booleans(),
    lora_bytes=st.integers(0, 4 * 10**9),
    compiled=st.sampled_from([(), (64 * 64,), (128 * 128,) * 8]),
)


@given(wishes=wished, gib=st.integers(4, 200), more=st.integers(0, 100), models=st.sampled_from([BASE, BOTH]))
def test_what_fits_a_card_fits_a_larger_one_and_nothing_is_forgotten(
    wishes: Wishes, gib: int, more: int, models: Models
) -> None:
    plan, larger = (make_plan(models, wishes, card_of_size(size * GIB)) for size in (gib, gib + more))
    assert larger.fits or not plan.fits
    assert plan.working >= max(max(bucket.step, bucket.decode) for bucket in plan.buckets)
    assert plan.buckets[-1].positions == wishes.max_pixels // 64
    if plan.lora_copy:
        assert plan.total <= plan.card.total, "the copy never makes a worker too large"
    if wishes.tile == "auto" and not plan.fits:
        assert plan.tile_px == 256, "everything was tried"
