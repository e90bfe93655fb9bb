"""LoRAs with a weight per row: equal to diffusers' own results, and independent of the other rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.lora_files import (
    TEXT,
    UNET_MODULES,
    Tensors,
    hooks_of,
    load_into,
    set_adapters,
    write_kohya,
    write_peft,
)
from worker.engine.lora.cache import LoraCache, Loras
from worker.models.load import load_base

# PEFT, of every second adapter.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Already found a `peft_config`")]

SAMPLES = 8
TOLERANCE = 1e-5
WRITERS = pytest.mark.parametrize("write", [write_peft, write_kohya], ids=["peft", "kohya"])


def unet_inputs(pipeline: Any, seed: int = 0, samples: int = SAMPLES) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    dtype = pipeline.unet.dtype

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(samples, *shape, generator=generator).to(dtype)

    return {
        "sample": draw(4, 8, 8),
        "timestep": torch.arange(1, 1000, 1000 // samples)[:samples],
        "encoder_hidden_states": draw(77, 96),
        "added_cond_kwargs": {"text_embeds": draw(64), "time_ids": draw(6)},
    }


@torch.inference_mode()
def plain(pipeline: Any, inputs: dict[str, Any]) -> torch.Tensor:
    predicted: torch.Tensor = pipeline.unet(**inputs, return_dict=False)[0]
    return predicted


def mixed(lora_cache: LoraCache, pipeline: Any, per_sample: Sequence[Loras], inputs: dict[str, Any]) -> torch.Tensor:
    """One UNet call of fully acquired LoRAs."""
    for loras in per_sample:
        lora_cache.acquire(loras)
    try:
        with torch.inference_mode(), lora_cache.batch(lora_cache.mix(per_sample)):
            return plain(pipeline, inputs)
    finally:
        for loras in per_sample:
            lora_cache.release(loras)


def test_each_row_equals_diffusers_with_its_own_set(
    base: Any, reference: Any, folder: Path, lora_cache: LoraCache
) -> None:
    one = write_peft(folder / "one.safetensors", base, seed=1)
    two = write_kohya(folder / "two.safetensors", base, seed=2, rank=8)
    load_into(reference, one=one, two=two)
    sets: list[Loras] = [[("one", 0.8)], [("two", -1.3)], [("one", 0.5), ("two", 1.0)], []]
    inputs = unet_inputs(base, samples=len(sets))
    ours = mixed(lora_cache, base, sets, inputs)
    without = plain(base, inputs)
    for i, loras in enumerate(sets):
        set_adapters(reference, loras)
        assert torch.allclose(ours[i], plain(reference, inputs)[i], atol=TOLERANCE, rtol=TOLERANCE)
        assert torch.equal(ours[i], without[i]) == (not loras)


@WRITERS
def test_alphas_and_every_kind_of_layer_equal_diffusers(
    base: Any, reference: Any, folder: Path, lora_cache: LoraCache, write: Any
) -> None:
    tensors = write(folder / "lora.safetensors", base, seed=3)
    load_into(reference, lora=tensors)
    inputs = unet_inputs(base)
    ours = mixed(lora_cache, base, [[("lora", 1.0)]] * SAMPLES, inputs)
    assert torch.allclose(ours, plain(reference, inputs), atol=TOLERANCE, rtol=TOLERANCE)
    assert not torch.allclose(ours, plain(base, inputs), atol=0.01)


def test_every_layer_has_its_own_alpha(base: Any, reference: Any, folder: Path, lora_cache: LoraCache) -> None:
    """Against merged weights: diffusers loses the alphas of kohya's attention layers where they differ."""
    tensors: Tensors = {}
    for i, module in enumerate(name for name in UNET_MODULES if ".attn" in name):
        weight = reference.unet.get_submodule(module).weight
        down, up, alpha = torch.randn(4, weight.shape[1]) / 10, torch.randn(weight.shape[0], 4) / 10, i + 1.0
        weight += alpha / 4 * up @ down
        stem = f"lora_unet_{module.replace('.', '_')}"
        tensors |= {
            f"{stem}.lora_down.weight": down,
            f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(alpha),
        }
    save_file(tensors, folder / "lora.safetensors")
    inputs = unet_inputs(base)
    ours = mixed(lora_cache, base, [[("lora", 1.0)]] * SAMPLES, inputs)
    assert torch.allclose(ours, plain(reference, inputs), atol=TOLERANCE, rtol=TOLERANCE)
    assert not torch.allclose(ours, plain(base, inputs), atol=0.01)


def test_saved_metadata_gives_the_alphas(base: Any, reference: Any, folder: Path, lora_cache: LoraCache) -> None:
    from peft import LoraConfig

    config = LoraConfig(
        r=4,
        lora_alpha=10,
        target_modules=[name for name in UNET_MODULES if "attn" in name],
        alpha_pattern={"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": 3},
        init_lora_weights=False,
    )
    reference.unet.add_adapter(config, "lora")
    reference.unet.save_lora_adapter(folder, adapter_name="lora", weight_name="lora.safetensors")
    tensors = {f"unet.{name}": tensor for name, tensor in load_file(folder / "lora.safetensors").items()}
    metadata = {f"unet.{key}": value for key, value in config.to_dict().items() if value is not None}
    _save_with_metadata(folder / "lora.safetensors", tensors, metadata)
    inputs = unet_inputs(base)
    ours = mixed(lora_cache, base, [[("lora", 1.0)]] * SAMPLES, inputs)
    assert torch.allclose(ours, plain(reference, inputs), atol=TOLERANCE, rtol=TOLERANCE)


def test_block_names_of_the_original_are_understood(
    base: Any, reference: Any, folder: Path, lora_cache: LoraCache
) -> None:
    stem = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q"
    tensors = {f"{stem}.lora_down.weight": torch.randn(4, 64), f"{stem}.lora_up.weight": torch.randn(64, 4)}
    save_file(tensors, folder / "sgm.safetensors")
    load_into(reference, sgm=tensors)
    inputs = unet_inputs(base)
    ours = mixed(lora_cache, base, [[("sgm", 1.0)]] * SAMPLES, inputs)
    assert torch.allclose(ours, plain(reference, inputs), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("position", range(SAMPLES))
def test_a_row_does_not_depend_on_company_or_position(toy: Path, folder: Path, dtype: Any, position: int) -> None:
    base = load_base(str(toy / "base"), dtype=dtype, device="cpu")
    for seed, name in enumerate(("a", "mine", "z")):
        write_kohya(folder / f"{name}.safetensors", base, seed=seed, rank=1 + 2 * seed)
    lora_cache = LoraCache(base, folder, 8)
    mine: Loras = [("mine", 0.7), ("a", -0.4)]
    inputs = unet_inputs(base)
    alone = mixed(lora_cache, base, [mine] + [()] * (SAMPLES - 1), inputs)[0]
    company: list[Loras] = [[("a", 1.0)], (), [("z", 2.0), ("a", 0.1)], [("z", -1.0)], (), [("mine", 3.0)], ()]
    order = torch.tensor([*range(1, position + 1), 0, *range(position + 1, SAMPLES)])
    moved = _reordered(inputs, order)
    company.insert(position, mine)
    assert torch.equal(mixed(lora_cache, base, company, moved)[position], alone)


def test_rows_without_lora_get_exactly_what_the_base_gives(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    write_peft(folder / "a.safetensors", base, size=1e3)
    inputs = unet_inputs(base)
    ours = mixed(lora_cache, base, [[("a", 5.0)], (), [("a", 0.0)], ()] * 2, inputs)
    assert _bits(ours[1::2]) == _bits(plain(base, inputs)[1::2])
    assert _bits(ours[2]) == _bits(plain(base, inputs)[2])


def test_an_overflow_in_one_row_stays_there(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    write_peft(folder / "huge.safetensors", base, size=1e30)
    inputs = unet_inputs(base)
    ours = mixed(lora_cache, base, [[("huge", 1.0)]] + [()] * (SAMPLES - 1), inputs)
    assert not torch.isfinite(ours[0]).all()
    assert torch.equal(ours[1:], plain(base, inputs)[1:])


def test_weight_zero_adds_nothing_and_computes_nothing(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    write_peft(folder / "a.safetensors", base)
    lora_cache.acquire([("a", 0.0)])
    assert lora_cache.mix([[("a", 0.0)]] * SAMPLES) is None


def test_no_hook_is_left_when_no_row_has_a_lora(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    write_peft(folder / "a.safetensors", base)
    loras = [("a", 1.0)]
    lora_cache.acquire(loras)
    inputs = unet_inputs(base)
    without = plain(base, inputs)
    mix = lora_cache.mix([loras] * SAMPLES)
    for _ in range(2):
        with lora_cache.batch(mix):
            assert hooks_of(base.unet) == len(UNET_MODULES)
            assert not torch.equal(plain(base, inputs), without)
        assert torch.equal(plain(base, inputs), without), "outside the block the UNet is itself"
    with lora_cache.batch(lora_cache.mix([()] * SAMPLES)):
        assert hooks_of(base.unet) == 0


def test_the_order_of_a_set_does_not_matter(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    write_peft(folder / "a.safetensors", base, seed=1)
    write_peft(folder / "b.safetensors", base, seed=2)
    inputs = unet_inputs(base)
    one_way = mixed(lora_cache, base, [[("a", 0.3), ("b", 0.7)]] * SAMPLES, inputs)
    assert torch.equal(one_way, mixed(lora_cache, base, [[("b", 0.7), ("a", 0.3)]] * SAMPLES, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_models_stay_so(toy: Path, folder: Path, dtype: torch.dtype) -> None:
    base = load_base(str(toy / "base"), dtype=dtype, device="cpu")
    write_kohya(folder / "a.safetensors", base)
    inputs = unet_inputs(base)
    ours = mixed(LoraCache(base, folder, 8), base, [[("a", 1.0)]] * SAMPLES, inputs)
    assert ours.dtype is dtype
    assert not torch.equal(ours, plain(base, inputs))


@WRITERS
def test_prompts_are_encoded_as_by_diffusers(
    base: Any, reference: Any, folder: Path, lora_cache: LoraCache, write: Any
) -> None:
    one = write(folder / "one.safetensors", base, seed=1, text=TEXT)
    two = write(folder / "two.safetensors", base, seed=2, text=TEXT[1:])
    load_into(reference, one=one, two=two)
    loras = [("one", 0.6), ("two", -0.9)]
    set_adapters(reference, loras)
    lora_cache.acquire(loras)
    without, own_hooks = _encode(base), hooks_of(base.text_encoder) + hooks_of(base.text_encoder_2)
    with lora_cache.text(loras):
        ours = _encode(base)
    for mine, theirs, bare in zip(ours, _encode(reference), without, strict=True):
        assert torch.allclose(mine, theirs, atol=TOLERANCE, rtol=TOLERANCE)
        assert not torch.allclose(mine, bare, atol=0.01)
    assert all(torch.equal(again, bare) for again, bare in zip(_encode(base), without, strict=True))
    assert hooks_of(base.text_encoder) + hooks_of(base.text_encoder_2) == own_hooks, "transformers has its own"


def test_text_key_tells_apart_only_what_changes_the_embeddings(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    write_peft(folder / "unet.safetensors", base)
    write_peft(folder / "text.safetensors", base, text=TEXT[:1])
    for loras in ([("unet", 1.0)], [("text", 1.0)]):
        lora_cache.acquire(loras)
    assert lora_cache.text_key([("unet", 1.0)]) == lora_cache.text_key([("text", 0.0)]) == lora_cache.text_key([])
    both = lora_cache.text_key([("text", 1.0), ("unet", 0.2)])
    assert both == lora_cache.text_key([("unet", 0.9), ("text", 1.0)])
    assert both not in (lora_cache.text_key([]), lora_cache.text_key([("text", 0.5)]))


def _save_with_metadata(path: Path, tensors: Tensors, metadata: dict[str, Any]) -> None:
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(metadata, default=sorted)})


def _encode(pipeline: Any) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        encoded: tuple[torch.Tensor, ...] = pipeline.encode_prompt("a cat", negative_prompt="a dog")
    return encoded


def _reordered(inputs: dict[str, Any], order: torch.Tensor) -> dict[str, Any]:
    return {key: _reordered(value, order) if isinstance(value, dict) else value[order] for key, value in inputs.items()}


def _bits(tensor: torch.Tensor) -> list[int]:
    bits: list[int] = tensor.contiguous().view(torch.int32).flatten().tolist()
    return bits
