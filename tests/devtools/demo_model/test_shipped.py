"""The demo model in the repository: it is small, documented, and draws what prompts ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from devtools.bench.equality.draw import WatchedModel
from devtools.bench.quality.golden import distance, hashes
from devtools.bench.quality.lora import BOTH, LESSONS, examine
from devtools.bench.quality.truth import Wish, draw, truth
from devtools.demo_model.judge import look
from devtools.models.shipped import DEMO, DEMO_BASE, DEMO_LORAS, DEMO_REFINER
from worker.job import SCHEDULERS
from worker.models.load import load_base

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a minute of work, on a machine that may be busy

GOLDEN = Path(__file__).parent / "golden.json"
MAX_BYTES = 12_000_000
# Rounding on another CPU moves a hash by a unit or two, another picture by dozens.
SAME_PICTURE = 4.0
PROMPTS = 30
# The aims of `bench truth` and `bench lora` are 95 %, a third left by a negative prompt, 70 % taught, and all are met
# (docs/pictures.md). Fewer pictures are asked here, where one is 2 to 8 %, with room for another CPU's rounding.
RIGHT, LEFT_BY_NEGATIVE, TAUGHT = 0.9, 1 / 2, 0.5


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    model = WatchedModel(load_base(str(DEMO_BASE), dtype=torch.float32, device="cpu"))
    return truth(model, PROMPTS)[0]


def test_it_is_small_and_its_card_says_what_it_is() -> None:
    files = [path for path in DEMO.rglob("*") if path.is_file() and not path.is_symlink()]
    base = sum(path.stat().st_size for path in DEMO_BASE.rglob("*") if path.is_file())
    assert base <= MAX_BYTES
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    card = (DEMO / "README.md").read_text()
    assert re.search(r"^license: apache-2.0$", card, re.MULTILINE)
    assert "models train-demo" in card
    for weights in DEMO_BASE.rglob("*.safetensors"):
        with safe_open(weights, "pt") as tensors:
            assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} == {"F16"}  # noqa: SIM118


def test_refiner_and_base_share_what_they_share() -> None:
    for name in ("vae", "text_encoder_2", "tokenizer_2"):
        assert (DEMO_REFINER / name).resolve() == (DEMO_BASE / name).resolve()


def test_shape_colour_and_background_are_as_asked(report: dict[str, Any]) -> None:
    assert report["right_share"] >= RIGHT, report["wrong"]


def test_the_negative_prompt_removes_what_it_names(report: dict[str, Any]) -> None:
    for unwanted, case in report["negative_prompt"].items():
        assert case["without"] > 0, f"{unwanted} never showed, so this proves nothing"
        assert case["with"] <= case["without"] * LEFT_BY_NEGATIVE, unwanted


def test_guidance_costs_variety_and_is_right(report: dict[str, Any]) -> None:
    low, high = (report["guidance"]["commonest_colour_share"][scale] for scale in ("1.0", "7.5"))
    assert high > low
    assert report["guidance"]["right_share"]["7.5"] >= RIGHT
    assert report["guidance"]["mean_abs_difference"] > 2


def test_another_seed_gives_another_picture_of_the_same_thing(report: dict[str, Any]) -> None:
    assert report["seeds"]["another_picture_share"] == 1
    assert report["seeds"]["right_share"] >= RIGHT


# numpy 2 on diffusers' KDPM2 schedulers.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_every_scheduler_draws_what_is_asked() -> None:
    model = WatchedModel(load_base(str(DEMO_BASE), dtype=torch.float32, device="cpu"))
    prompt = "a big white heart on a purple background, no frame"
    pictures = draw(model, [Wish(prompt=prompt, seed=3, scheduler=scheduler) for scheduler in SCHEDULERS])
    seen = {scheduler: look(picture) for scheduler, picture in zip(SCHEDULERS, pictures, strict=True)}
    told = {scheduler: (one.shape, one.colour, one.background, one.framed) for scheduler, one in seen.items()}
    assert told == dict.fromkeys(SCHEDULERS, ("heart", "white", "purple", False))


def test_the_shipped_loras_teach_a_shape_and_a_style_and_go_together() -> None:
    found, _ = examine(DEMO_BASE, DEMO_LORAS, prompts=8)
    for name in [*(lesson.name for lesson in LESSONS), "both"]:
        assert found[name]["after"] >= TAUGHT, found
        assert found[name]["before"] < TAUGHT / 4, found
    assert found["both"]["loras"] == dict(BOTH)


def test_golden_pictures_are_as_they_were() -> None:
    golden, now = json.loads(GOLDEN.read_text()), hashes()
    assert [entry["prompt"] for entry in now] == [entry["prompt"] for entry in golden]
    apart = [distance(a["hash"], b["hash"]) for a, b in zip(golden, now, strict=True)]
    assert max(apart) < SAME_PICTURE, apart
    others = [distance(a["hash"], b["hash"]) for a, b in zip(golden[1:], now, strict=False)]
    assert min(others) > 2 * SAME_PICTURE, "the hash tells pictures apart"
