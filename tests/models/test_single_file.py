"""Models in one file: with the configurations that come with the worker, what their keys say, and what they lack."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from devtools.models.single_file import write_single_file
from tests.models.packagings import vocabulary_file_pair
from worker.errors import ModelLoadError
from worker.models import single_file
from worker.models.load import load_base, load_refiner
from worker.models.single_file import SHIPPED, clip_tokenizer
from worker.models.vocabulary import check_tokenizer

Weights = dict[str, torch.Tensor]
FP32 = torch.float32
FLAG = torch.zeros(1)


@pytest.fixture(scope="module")
def whole(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    file = tmp_path_factory.mktemp("single") / "base.safetensors"
    write_single_file(toy / "base", file)
    return load_file(file)


@pytest.fixture
def shipped(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ship the toy's configurations and tokenizers in place of SDXL's."""
    for role in ("base", "refiner"):
        shutil.copytree(toy / role, tmp_path / "shipped" / role, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(single_file, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(single_file, "_shipped_tokenizers", lambda _: {})


@pytest.mark.usefixtures("shipped")
class TestOffline:
    """A file without a folder beside it, and no network."""

    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_network(*_: object) -> None:
            raise OSError("the network is off in this test")

        monkeypatch.setattr("socket.socket.connect", no_network)

    def test_a_base_has_the_weights_of_its_folder(self, toy: Path, whole: Weights, tmp_path: Path) -> None:
        loaded = load_base(str(_written(whole, tmp_path)), dtype=FP32, device="cpu")
        expected = load_base(str(toy / "base"), dtype=FP32, device="cpu")
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            _assert_equal(getattr(loaded, name), getattr(expected, name))
        assert loaded.scheduler.config.prediction_type == "epsilon"

    def test_a_refiner_too(self, toy: Path, tmp_path: Path) -> None:
        write_single_file(toy / "refiner", tmp_path / "r.safetensors")
        loaded = load_refiner(str(tmp_path / "r.safetensors"), dtype=FP32, device="cpu")
        assert loaded.config.requires_aesthetics_score
        with pytest.raises(ModelLoadError, match="is not an SDXL base in one file: its first text encoder"):
            load_base(str(tmp_path / "r.safetensors"), dtype=FP32, device="cpu")

    def test_velocity_is_told_by_a_key(self, whole: Weights, tmp_path: Path) -> None:
        loaded = load_base(str(_written(whole | {"v_pred": FLAG}, tmp_path)), dtype=FP32, device="cpu")
        config = loaded.scheduler.config
        assert (config.prediction_type, config.rescale_betas_zero_snr) == ("v_prediction", False)

    def test_zero_terminal_snr_is_told_by_a_key(self, whole: Weights, tmp_path: Path) -> None:
        file = _written(whole | {"v_pred": FLAG, "ztsnr": FLAG.clone()}, tmp_path)
        config = load_base(str(file), dtype=FP32, device="cpu").scheduler.config
        assert (config.prediction_type, config.rescale_betas_zero_snr) == ("v_prediction", True)
        assert config.timestep_spacing == "trailing"

    def test_counters_and_flags_may_be_integers(self, whole: Weights, tmp_path: Path) -> None:
        counters = {"global_step": torch.zeros((), dtype=torch.int64), "v_pred": torch.zeros(0, dtype=torch.bool)}
        loaded = load_base(str(_written(whole | counters, tmp_path)), dtype=FP32, device="cpu")
        assert loaded.scheduler.config.prediction_type == "v_prediction"


def _lacks(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if part not in key}


REFUSED: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "no text projection": (_lacks("text_projection"), "conditioner.embedders.1.model.text_projection is missing"),
    "no CLIP-L": (_lacks("embedders.0."), "its first text encoder is not whole"),
    "no layer in CLIP-L": (_lacks("text_model.encoder.layers.1."), "text_encoder has no encoder.layers.1.self_attn"),
    "no layer in CLIP-G": (_lacks("resblocks.1."), "text_encoder_2 has no text_model.encoder.layers.1.self_attn"),
    "no VAE": (_lacks("first_stage_model."), "its VAE is not whole"),
    "no middle in the VAE": (_lacks("decoder.mid"), "its vae has no decoder.mid_block.attentions.0.group_norm.weight"),
    "no middle in the UNet": (_lacks("middle_block"), "its unet has no mid_block.attentions.0.norm.weight"),
    "no size embedding, as in 1.5": (_lacks("label_emb"), "model.diffusion_model.label_emb.0.0.weight is missing"),
    "foreign prefix": (
        lambda weights: {f"net.{key}": tensor for key, tensor in weights.items()},
        "model.diffusion_model.input_blocks.0.0.weight is missing",
    ),
    "EDM": (lambda weights: weights | {"edm_mean": FLAG}, "is an EDM model (it has edm_mean)"),
    "inpainting": (
        lambda weights: weights | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)},
        "its UNet takes 9 channels in place of 4",
    ),
    "embedded guidance": (
        lambda weights: weights | {"model.diffusion_model.time_embed.cond_proj.weight": FLAG},
        "has a UNet with embedded guidance",
    ),
    "quantised": (
        lambda weights: weights | {"model.diffusion_model.out.2.weight": torch.zeros(4, 32, 3, 3, dtype=torch.int8)},
        "holds quantised weights (model.diffusion_model.out.2.weight is I8)",
    ),
}


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(whole: Weights, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    change, sentence = REFUSED[name]
    file = _written(change(whole), tmp_path)
    with pytest.raises(ModelLoadError, match=re.escape(sentence)) as told:
        load_base(str(file), dtype=FP32, device="cpu")
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


class TestWhatIsShipped:
    """SDXL's own configurations, by the counts of parameters that are known of its networks."""

    @pytest.mark.parametrize(
        ("folder", "parameters"),
        [
            ("base/unet", 2_567_463_684),
            ("refiner/unet", 2_259_526_660),
            ("base/vae", 83_653_863),
            ("refiner/vae", 83_653_863),
            ("base/text_encoder", 123_060_480),
            ("base/text_encoder_2", 694_659_840),
            ("refiner/text_encoder_2", 694_659_840),
        ],
    )
    def test_networks(self, folder: str, parameters: int) -> None:
        config = json.loads((SHIPPED / folder / "config.json").read_text())
        with torch.device("meta"):
            match folder.split("/")[1]:
                case "unet":
                    module: torch.nn.Module = UNet2DConditionModel.from_config(config)
                case "vae":
                    module = AutoencoderKL.from_config(config)
                case "text_encoder":
                    module = CLIPTextModel(CLIPTextConfig(**config))
                case _:
                    module = CLIPTextModelWithProjection(CLIPTextConfig(**config))
        assert sum(parameter.numel() for parameter in module.parameters()) == parameters

    def test_tokenizer_is_clips(self) -> None:
        # As printed in CLIP's own documentation and in many places since.
        first, second = clip_tokenizer(pad_token="<|endoftext|>"), clip_tokenizer(pad_token="!")
        assert len(first) == 49408
        assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert (first.pad_token_id, second.pad_token_id, second.model_max_length) == (49407, 0, 77)

    @pytest.mark.parametrize("whole_file", [True, False])
    def test_clips_real_vocabulary_is_found_complete(self, tmp_path: Path, whole_file: bool) -> None:
        clip_tokenizer(pad_token="!").save_pretrained(tmp_path / "tokenizer")
        if not whole_file:
            vocabulary_file_pair("tokenizer")(tmp_path)
        check_tokenizer("clip", tmp_path, "tokenizer", {"vocab_size": 49408})


def _written(weights: Weights, folder: Path) -> Path:
    file = folder / "model.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, file)
    return file


def _assert_equal(one: torch.nn.Module, other: torch.nn.Module) -> None:
    weights, others = one.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
