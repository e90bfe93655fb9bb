"""Every packaging of a base draws what diffusers draws with it, or is refused in one line that names what is wrong."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from tests.models import packagings as p
from tests.models.packagings import FIRST, SECOND, UNET, VAE, Pack
from worker.errors import ModelLoadError
from worker.models.load import load_base

pytestmark = pytest.mark.slow

TOKENIZER_SETTINGS = "tokenizer/tokenizer_config.json"
SCHEDULER = "scheduler/scheduler_config.json"

DRAWN: dict[str, Pack] = {
    "as it is": lambda _: None,
    "tokenizer in two files": p.both(p.vocabulary_file_pair("tokenizer"), p.vocabulary_file_pair("tokenizer_2")),
    "text encoder with the prefix of older releases": p.prefixed(FIRST, "text_model."),
    "text encoder with old buffers": p.extended(
        SECOND, **{"text_model.embeddings.position_ids": torch.arange(77)[None], "logit_scale": torch.ones(())}
    ),
    "UNet in parts": p.sharded,
    "UNet in bf16": p.cast(UNET, torch.bfloat16),
    "UNet in float8": p.cast(UNET, torch.float8_e4m3fn),
    "image-to-image in the index": p.configured("model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline"),
    "DDIM that clips": p.configured(SCHEDULER, _class_name="DDIMScheduler", clip_sample=True),
}

REFUSED: dict[str, tuple[Pack, str]] = {
    "no vocabulary": (p.absent("tokenizer/tokenizer.json"), "tokenizer/vocab.json is missing"),
    "no merges": (
        p.both(p.vocabulary_file_pair("tokenizer"), p.absent("tokenizer/merges.txt")),
        "tokenizer/merges.txt is missing",
    ),
    "vocabulary cut short": (
        p.both(p.vocabulary_file_pair("tokenizer_2", tokens=100)),
        "tokenizer_2/vocab.json is not complete: the text encoder knows 514 tokens, and number 100 is missing",
    ),
    "vocabulary cut in the middle of a line": (p.cut("tokenizer/tokenizer.json", 999), "tokenizer.json cannot be read"),
    "merges cut short": (p.unmerged_token, "tokenizer.json is not complete: no merge makes the token 'cat</w>'"),
    "another model's vocabulary": (
        p.configured("text_encoder/config.json", vocab_size=100),
        "has a token 513, but the text encoder knows 100 tokens only",
    ),
    "no model_max_length": (
        p.configured(TOKENIZER_SETTINGS, model_max_length=None),
        "tokenizer/tokenizer_config.json has no model_max_length; for this text encoder it is 77",
    ),
    "a model_max_length of 1e30": (
        p.configured(TOKENIZER_SETTINGS, model_max_length=10**30),
        "tokenizer/tokenizer_config.json has the model_max_length 1000000000000000000",
    ),
    "no second tokenizer": (p.absent("tokenizer_2"), "tokenizer_2/tokenizer_config.json is missing"),
    "no second tokenizer in the index": (
        p.configured("model_index.json", tokenizer_2=[None, None]),
        "its model_index.json has no tokenizer_2",
    ),
    "no first tokenizer in the index": (
        p.configured("model_index.json", tokenizer=None),
        "its model_index.json has no tokenizer",
    ),
    "no scheduler": (p.absent("scheduler"), "scheduler/scheduler_config.json is missing"),
    "no configuration of the UNet": (p.absent("unet/config.json"), "unet/config.json is missing"),
    "no text projection": (p.without(SECOND, "text_projection"), "text_encoder_2 has no text_projection.weight"),
    "no second layer in CLIP-L": (
        p.without(FIRST, "layers.1."),
        "text_encoder has no encoder.layers.1.self_attn.k_proj.weight",
    ),
    "no second layer in CLIP-G": (
        p.without(SECOND, "layers.1."),
        "text_encoder_2 has no text_model.encoder.layers.1.self_attn.k_proj.weight",
    ),
    "more layers than configured": (
        p.configured("text_encoder/config.json", num_hidden_layers=1),
        "text_encoder/config.json does not describe the weights: encoder.layers.1.",
    ),
    "foreign prefix in CLIP": (
        p.prefixed(SECOND, "clip_g."),
        "text_encoder_2 has no text_model.embeddings.token_embedding.weight (it has clip_g.text_model.",
    ),
    "foreign prefix in the UNet": (
        p.prefixed(UNET, "model.diffusion_model."),
        "unet has no conv_in.weight (it has model.diffusion_model.",
    ),
    "no middle in the VAE": (
        p.without(VAE, "decoder.mid"),
        "vae has no decoder.mid_block.attentions.0.group_norm.weight",
    ),
    "one bias missing": (p.without(UNET, "conv_out.bias"), "unet has no conv_out.bias"),
    "weights of another shape": (p.configured("vae/config.json", latent_channels=8), "cannot be loaded"),
    "a part of the UNet missing": (
        p.both(p.sharded, p.absent("unet/diffusion_pytorch_model-00002-of-00002.safetensors")),
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors is missing",
    ),
    "no list of the parts": (
        p.both(p.sharded, p.absent("unet/diffusion_pytorch_model.safetensors.index.json")),
        "00001-of-00002.safetensors is a part, but the .index.json that lists the parts is missing",
    ),
    "pickled only": (
        p.renamed(SECOND, "text_encoder_2/pytorch_model.bin"),
        "no .safetensors weights for text_encoder_2 (pickled .bin weights are not read)",
    ),
    "cut short": (p.cut(UNET, 2**20), f"{UNET} is cut short: it has 1048576 of"),
    "cut inside the header": (p.cut(UNET, 1000), f"{UNET} is cut short: it ends inside its header"),
    "empty": (p.cut(VAE, 0), f"{VAE} is not a .safetensors file"),
    "an answer of a web server in place of weights": (p.replaced(VAE, "<html>not found</html>"), f"{VAE} is not a"),
    "pointer in place of weights": (p.replaced(UNET, p.LFS_POINTER), f"{UNET} is a Git LFS pointer"),
    "pointer in place of a vocabulary": (
        p.replaced("tokenizer/tokenizer.json", p.LFS_POINTER),
        "tokenizer/tokenizer.json is a Git LFS pointer",
    ),
    "pointer in place of the index": (p.replaced("model_index.json", p.LFS_POINTER), "model_index.json is a Git LFS"),
    "quantised": (p.cast(UNET, torch.int8), f"{UNET} holds quantised weights"),
    "quantised by configuration": (
        p.configured("unet/config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "unet/config.json is that of quantised weights",
    ),
    "Stable Diffusion 1.5": (
        p.configured("model_index.json", _class_name="StableDiffusionPipeline"),
        "is not an SDXL model: its model_index.json names StableDiffusionPipeline",
    ),
    "inpainting": (
        p.configured("unet/config.json", in_channels=9),
        "is not an SDXL text-to-image model: its UNet takes 9 channels in place of 4",
    ),
    "another VAE": (
        p.configured("model_index.json", vae=["diffusers", "AutoencoderTiny"]),
        "vae is a AutoencoderTiny; the worker needs a AutoencoderKL",
    ),
    "embedded guidance": (
        p.configured("unet/config.json", time_cond_proj_dim=256),
        "has a UNet with embedded guidance (time_cond_proj_dim 256)",
    ),
    "EDM": (
        p.configured(SCHEDULER, _class_name="EDMDPMSolverMultistepScheduler", sigma_data=0.5),
        "is an EDM model (scheduler/scheduler_config.json names EDMDPMSolverMultistepScheduler, with sigma_data 0.5)",
    ),
    "flow matching": (
        p.configured(SCHEDULER, _class_name="FlowMatchEulerDiscreteScheduler"),
        "is a flow-matching model",
    ),
}


@pytest.fixture
def folder(toy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy / "base", tmp_path / "model"))


@pytest.mark.parametrize("name", DRAWN)
def test_draws_what_diffusers_draws(folder: Path, name: str) -> None:
    DRAWN[name](folder)
    ours = load_base(str(folder), dtype=torch.float32, device="cpu")
    theirs = StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    assert torch.equal(_draw(ours), _draw(theirs))


def test_draws_from_files_in_fp16_only(folder: Path) -> None:
    p.all_in_fp16(folder)
    ours = load_base(str(folder), dtype=torch.float32, device="cpu")
    theirs = StableDiffusionXLPipeline.from_pretrained(folder, variant="fp16", dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    assert torch.equal(_draw(ours), _draw(theirs))


def test_each_part_may_be_in_fp16_or_not(folder: Path) -> None:
    p.both(p.cast(FIRST, torch.float16), p.renamed(FIRST, FIRST.replace(".safe", ".fp16.safe")))(folder)
    loaded = load_base(str(folder), dtype=torch.float16, device="cpu")
    assert {tensor.dtype for tensor in loaded.text_encoder.parameters()} == {torch.float16}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(folder: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    pack, sentence = REFUSED[name]
    pack(folder)
    with pytest.raises(ModelLoadError, match=re.escape(sentence)) as told:
        load_base(str(folder), dtype=torch.float32, device="cpu")
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", ""), "the libraries' own warnings would hide the line"


def _draw(pipeline: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "generator": generator, "output_type": "pt"}
    drawn: torch.Tensor = pipeline("a cat", **options).images
    return drawn
