"""A model is tried before the worker is ready: what cannot be drawn is refused by request, or ends the start."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.scenario import make_job, stage
from tests.models.packagings import configured
from worker.app import load_model
from worker.engine.cost import Stage
from worker.engine.pipeline import SdxlModel
from worker.engine.trial import try_out
from worker.errors import ErrorCode, ModelLoadError
from worker.job import SCHEDULERS
from worker.models.load import load_base, load_refiner
from worker.settings import Settings

# numpy 2 on diffusers' KDPM2 schedulers.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")]

WITHOUT_ZERO_SNR = {
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "PNDMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
}


def _model(base: Any, **entries: Any) -> SdxlModel:
    """The toy with a scheduler configuration that has further entries."""
    base.scheduler = type(base.scheduler).from_config(base.scheduler.config)
    base.scheduler._internal_dict = type(base.scheduler.config)(dict(base.scheduler.config) | entries)
    return SdxlModel(base)


@pytest.fixture
def own(toy: Path) -> Any:
    """A base for a test to change."""
    return load_base(str(toy / "base"), dtype=torch.float32, device="cpu")


def test_every_scheduler_works_with_a_plain_base_and_refiner(toy: Path, own: Any) -> None:
    refiner = load_refiner(str(toy / "refiner"), dtype=torch.float32, device="cpu", share=own)
    model = SdxlModel(own, refiner)
    before = torch.random.get_rng_state()
    try_out(model, model_id="base", refiner_id="refiner")
    assert model.unusable == {}
    assert torch.equal(torch.random.get_rng_state(), before), "nobody draws from torch's own generator"


@pytest.mark.parametrize(
    ("entries", "unusable"),
    [
        ({"algorithm_type": "sde-dpmsolver++"}, {"DEISMultistepScheduler"}),
        ({"prediction_type": "sample"}, {"PNDMScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"}),
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, WITHOUT_ZERO_SNR),
    ],
)
def test_an_unusable_scheduler_is_refused_by_request_and_the_others_draw(
    own: Any, entries: dict[str, Any], unusable: set[str]
) -> None:
    model = _model(own, **entries)
    try_out(model, model_id="toy", refiner_id=None)
    found = {scheduler for _, scheduler in model.unusable}
    assert found >= unusable
    drawn = stage(model)
    drawn.run(*(make_job(scheduler, scheduler=scheduler) for scheduler in SCHEDULERS))
    assert drawn.codes() == dict.fromkeys(found, ErrorCode.INVALID_REQUEST)
    assert drawn.pictures.keys() == set(SCHEDULERS) - found
    for scheduler, failure in drawn.failures.items():
        assert failure.message.startswith(f"scheduler: {scheduler} cannot draw with this worker's base: ")
        assert "\n" not in failure.message


def test_the_worker_tries_its_model_when_it_loads_it(toy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy / "base", tmp_path / "model"))
    configured("scheduler/scheduler_config.json", algorithm_type="sde-dpmsolver++")(folder)
    settings = Settings(_env_file=None, sdxl_model_id=str(folder), sdxl_refiner_id=None, device="cpu")
    model, _, _ = load_model(settings)
    assert set(model.unusable) == {(Stage.BASE, "DEISMultistepScheduler")}


def test_without_a_trial_a_scheduler_that_cannot_be_built_is_refused_too(own: Any) -> None:
    drawn = stage(_model(own, algorithm_type="sde-dpmsolver++"))
    drawn.run(make_job("a", scheduler="DEISMultistepScheduler"), make_job("b"))
    assert drawn.codes() == {"a": ErrorCode.INVALID_REQUEST}
    assert drawn.pictures.keys() == {"b"}


def test_the_refiners_own_configuration_counts_for_refined_pictures(toy: Path, own: Any) -> None:
    refiner = load_refiner(str(toy / "refiner"), dtype=torch.float32, device="cpu", share=own)
    config = refiner.scheduler.config
    refiner.scheduler._internal_dict = type(config)(dict(config) | {"algorithm_type": "sde-dpmsolver++"})
    model = SdxlModel(own, refiner)
    try_out(model, model_id="base", refiner_id="refiner")
    assert set(model.unusable) == {(Stage.REFINER, "DEISMultistepScheduler")}
    drawn = stage(model)
    drawn.run(
        make_job("plain", scheduler="DEISMultistepScheduler"),
        make_job("refined", scheduler="DEISMultistepScheduler", refined=True),
    )
    assert drawn.pictures.keys() == {"plain"}
    assert "this worker's refiner" in drawn.failures["refined"].message


def test_a_model_that_returns_nan_ends_the_start(own: Any) -> None:
    own.unet.conv_out.bias.data[:] = float("nan")
    with pytest.raises(ModelLoadError, match="toy was loaded, but its UNet returned NaN"):
        try_out(SdxlModel(own), model_id="toy", refiner_id=None)


def test_a_vae_that_returns_nan_ends_the_start(own: Any) -> None:
    own.vae.decoder.conv_out.bias.data[:] = float("nan")
    with pytest.raises(ModelLoadError, match="toy was loaded, but cannot draw: the VAE returned NaN"):
        try_out(SdxlModel(own), model_id="toy", refiner_id=None)


def test_networks_that_do_not_fit_each_other_end_the_start(own: Any) -> None:
    own.text_encoder = own.text_encoder_2
    with pytest.raises(ModelLoadError, match="toy was loaded, but cannot draw"):
        try_out(SdxlModel(own), model_id="toy", refiner_id=None)


def test_a_base_for_no_scheduler_ends_the_start(own: Any) -> None:
    model = _model(own, prediction_type="unheard-of")
    with pytest.raises(ModelLoadError, match="cannot be drawn with any scheduler"):
        try_out(model, model_id="toy", refiner_id=None)
