"""The names of layers in LoRA files: every program's, for every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file

from tests.engine.lora_files import TEXT, UNET_MODULES, Tensors, load_into, refused, write_kohya, write_peft
from tests.engine.lycoris_files import make
from tests.engine.test_lora_batch import mixed, plain, unet_inputs
from worker.engine.lora.cache import LoraCache, Loras
from worker.engine.lora.names import stability_names
from worker.models.single_file import SHIPPED

ONE: Loras = [("lora", 1.0)]


def test_stabilitys_names_are_those_that_diffusers_converts(base: Any) -> None:
    config = json.loads((SHIPPED / "base/unet/config.json").read_text())
    with torch.device("meta"):
        full = UNet2DConditionModel.from_config(config)
    for unet in (full, base.unet):
        with_weights = {name for name, module in unet.named_modules() if getattr(module, "weight", None) is not None}
        named = stability_names(unet)
        assert with_weights <= named.keys()
        numbers = {name: torch.tensor(float(i)) for i, name in enumerate(sorted(with_weights))}
        checkpoint = {f"model.diffusion_model.{named[name]}.weight": numbers[name] for name in with_weights}
        checkpoint |= {f"{key.removesuffix('weight')}bias": tensor for key, tensor in checkpoint.items()}
        converted = convert_ldm_unet_checkpoint(checkpoint, config=dict(unet.config))
        assert {name: converted[f"{name}.weight"] for name in with_weights} == numbers


@pytest.mark.parametrize("kind", ["locon-tucker", "loha", "lokr", "full", "norm", "dora-locon-out"])
@pytest.mark.parametrize(
    ("prefix", "separator", "stability"),
    [
        ("lora_unet_", "_", True),
        ("lycoris_", "_", False),
        ("diffusion_model.", ".", True),
        ("model.diffusion_model.", ".", True),
        ("diffusion_model.", ".", False),
        ("unet.", ".", False),
        ("base_model.model.", ".", False),
        ("unet.base_model.model.", ".", False),
        ("base_model.model.unet.", ".", False),
    ],
)
def test_every_kind_is_found_under_every_name(
    base: Any, folder: Path, kind: str, prefix: str, separator: str, stability: bool
) -> None:
    tensors, _ = make(kind, base, text=())
    renames = stability_names(base.unet) if stability else {}
    stems = {f"lora_unet_{name.replace('.', '_')}": name for name, _ in base.unet.named_modules()}

    def renamed(key: str) -> str:
        stem, _, part = key.partition(".")
        name = stems[stem]
        return f"{prefix}{renames.get(name, name).replace('.', separator)}.{part}"

    save_file(tensors, folder / "usual.safetensors")
    save_file({renamed(key): tensor for key, tensor in tensors.items()}, folder / "lora.safetensors")
    cache = LoraCache(base, folder, 8)
    cache.check([*ONE, ("usual", 1.0)])
    usual, other = (cache._cache[name].file.changes["unet"] for name in ("usual", "lora"))
    assert other.keys() == usual.keys()
    for name, change in usual.items():
        weight = base.unet.get_submodule(name).weight
        theirs = other[name].kind
        assert change.kind is not None
        assert theirs is not None
        assert torch.equal(change.kind.delta(weight), theirs.delta(weight))


@pytest.mark.parametrize("root", ["", "base_model.model."])
@pytest.mark.parametrize("adapter", ["", ".default", ".my-style_2"])
def test_pefts_own_names(
    base: Any, reference: Any, folder: Path, lora_cache: LoraCache, root: str, adapter: str
) -> None:
    tensors = write_peft(folder / "lora.safetensors", base, text=TEXT)
    load_into(reference, lora=tensors)
    named = {f"{root}{key}".replace(".weight", f"{adapter}.weight"): tensor for key, tensor in tensors.items()}
    save_file(named, folder / "lora.safetensors")
    inputs = unet_inputs(base, samples=2)
    ours = mixed(lora_cache, base, [ONE] * 2, inputs)
    assert torch.allclose(ours, plain(reference, inputs), atol=1e-5, rtol=1e-5)
    assert lora_cache._cache["lora"].file.changes[TEXT[0]]


def test_peft_names_that_say_too_little_or_too_much(folder: Path, lora_cache: LoraCache) -> None:
    pair = {"lora_A.weight": torch.ones(4, 64), "lora_B.weight": torch.ones(64, 4)}
    to_q = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    encoder = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj"
    files: dict[str, tuple[Tensors, str]] = {
        "encoder": ({f"{encoder}.{part}": t for part, t in pair.items()}, "does not say which text encoder"),
        "two": (
            {f"{to_q}.{part.replace('.', f'.{name}.')}": t.clone() for name in "ab" for part, t in pair.items()},
            "second adapter",
        ),
        "twice": (
            {f"{to_q}.{part}": t for part, t in pair.items()}
            | {f"lora_{to_q.replace('.', '_')}.diff": torch.ones(64, 64)},
            "named by keys of two layouts",
        ),
    }
    for name, (tensors, said) in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
        refused(lora_cache, name, said)


def test_plain_kohya_files_with_stabilitys_names_are_the_same(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    tensors = write_kohya(folder / "usual.safetensors", base)
    theirs = {f"lora_unet_{name.replace('.', '_')}": stability_names(base.unet)[name] for name in UNET_MODULES}

    def renamed(key: str) -> str:
        stem, _, part = key.partition(".")
        return f"lora_unet_{theirs[stem].replace('.', '_')}.{part}"

    save_file({renamed(key): tensor for key, tensor in tensors.items()}, folder / "lora.safetensors")
    inputs = unet_inputs(base, samples=2)
    one, other = (mixed(lora_cache, base, [[(name, 1.0)]] * 2, inputs) for name in ("usual", "lora"))
    assert torch.equal(one, other)
