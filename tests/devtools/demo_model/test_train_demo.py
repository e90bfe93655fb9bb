"""`models train-demo` in a few steps: the result loads, is reproducible, and an interrupted run continues."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from devtools.demo_model import train as recipe
from devtools.demo_model import vae
from devtools.demo_model.train import train_demo
from worker.models.load import load_base, load_refiner

pytestmark = pytest.mark.slow

Stages = list[tuple[str, int, int]]
STAGES = ("vae", "base", "refiner", "finish", "loosen", "polish")


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae, "_PICTURES", 16)


def train(directory: Path, *, seed: int = 0) -> Stages:
    stages: Stages = []

    def progress(stage: str, done: int, total: int, loss: float) -> None:
        assert loss == loss, "NaN"
        stages.append((stage, done, total))

    steps = {f"{stage}_steps": 2 for stage in STAGES}
    train_demo(directory, seed=seed, pictures=64, progress=progress, **steps)
    return stages


def weights(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "_PICTURES", 16)
        stages = train(directory)
    assert stages == [(stage, done, 2) for stage in STAGES for done in (1, 2)]
    return directory


def test_what_it_writes_is_an_sdxl_with_a_refiner(trained: Path) -> None:
    base = load_base(str(trained / "base"), dtype=torch.float32, device="cpu")
    refiner = load_refiner(str(trained / "refiner"), dtype=torch.float32, device="cpu", share=base)
    assert refiner.text_encoder_2 is base.text_encoder_2
    assert refiner.vae is base.vae
    assert base.scheduler.config.prediction_type == "v_prediction"
    assert base.vae.config.scaling_factor != 1.0


def cut(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "fit", cut)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    assert [stage for stage, done, _ in train(tmp_path) if done == 1] == list(STAGES[1:])
    assert weights(tmp_path) == weights(trained)
    assert train(tmp_path) == [], "nothing is left to do"


def test_another_seed_gives_other_weights(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, seed=1)
    [(name, data)] = weights(tmp_path).items()
    assert weights(trained)[name] != data
