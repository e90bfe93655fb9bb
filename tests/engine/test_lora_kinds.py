"""Every kind of LoRA draws what the package that trains it draws, or what PEFT and diffusers draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.lora_files import TEXT, Tensors, load_into, refused, set_adapters, write_kohya, write_peft
from tests.engine.lycoris_files import DORAS, KINDS, apply, make
from tests.engine.test_lora_batch import SAMPLES, mixed, plain, unet_inputs
from worker.engine.lora.cache import LoraCache, Loras
from worker.models.load import load_base

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5
ALL = [*KINDS, *DORAS]


def encoded(pipeline: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = pipeline.encode_prompt("a cat", do_classifier_free_guidance=False)[0]
    return found


@pytest.mark.parametrize("kind", ALL)
def test_it_draws_what_lycoris_does(base: Any, reference: Any, folder: Path, lora_cache: LoraCache, kind: str) -> None:
    tensors, modules = make(kind, reference)
    save_file(tensors, folder / "lora.safetensors")
    # A DoRA's weights between 0 and 1 are a choice of every program.
    loras: Loras = [("lora", 1.0 if kind in DORAS else -0.7)]
    inputs = unet_inputs(base, samples=2)
    ours = mixed(lora_cache, base, [loras] * 2, inputs)
    lora_cache.acquire(loras)
    with lora_cache.text(loras):
        text = encoded(base)
    apply(modules, loras[0][1])
    for mine, theirs, bare in (
        (ours, plain(reference, inputs), plain(base, inputs)),
        (text, encoded(reference), encoded(base)),
    ):
        assert torch.allclose(mine, theirs, atol=TOLERANCE, rtol=1e-4), (mine - theirs).abs().max()
        assert not torch.allclose(mine, bare, atol=0.01)


def test_a_dora_with_pefts_names_is_what_diffusers_draws(
    base: Any, reference: Any, folder: Path, lora_cache: LoraCache
) -> None:
    tensors = _with_magnitudes(write_peft(folder / "lora.safetensors", base, text=TEXT), base)
    save_file(tensors, folder / "lora.safetensors")
    load_into(reference, lora=tensors)
    set_adapters(reference, [("lora", 1.0)])
    inputs = unet_inputs(base, samples=2)
    ours = mixed(lora_cache, base, [[("lora", 1.0)]] * 2, inputs)
    assert torch.allclose(ours, plain(reference, inputs), atol=TOLERANCE, rtol=1e-4)
    assert not torch.allclose(ours, plain(base, inputs), atol=0.01)


def test_a_doras_weight_goes_straight_from_the_model_to_the_whole_dora(
    base: Any, folder: Path, lora_cache: LoraCache
) -> None:
    tensors, _ = make("dora-locon-out", base, text=())
    save_file(tensors, folder / "lora.safetensors")
    lora_cache.check([("lora", 1.0)])
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    layer, change = base.unet.get_submodule(name), lora_cache._cache["lora"].file.changes["unet"][name]
    assert change.kind is not None
    whole = layer.weight + change.kind.delta(layer.weight)
    magnitude = tensors[f"lora_unet_{name.replace('.', '_')}.dora_scale"]
    assert torch.allclose(whole.norm(dim=1, keepdim=True), magnitude, rtol=1e-5)
    inputs = torch.randn(SAMPLES, 5, layer.in_features)
    half = layer(inputs) + 0.5 * torch.nn.functional.linear(inputs, whole - layer.weight)
    loras: Loras = [("lora", 0.5)]
    lora_cache.acquire(loras)
    with torch.inference_mode(), lora_cache.batch(lora_cache.mix([loras] * SAMPLES)):
        assert torch.allclose(layer(inputs), half, atol=1e-5)
    lora_cache.release(loras)


def _with_magnitudes(tensors: Tensors, pipeline: Any) -> Tensors:
    """Magnitudes near the weights' norms, in PEFT's shapes."""
    more: Tensors = {}
    for key in tensors:
        if not key.endswith(".lora_A.weight"):
            continue
        stem = key.removesuffix(".lora_A.weight")
        component, _, module = stem.partition(".")
        model = getattr(pipeline, component)
        module = module if hasattr(model, "text_model") else module.removeprefix("text_model.")
        weight = model.get_submodule(module).weight.detach()
        norm = weight.flatten(1).norm(dim=1) * torch.linspace(0.8, 1.3, len(weight))
        more[f"{stem}.lora_magnitude_vector"] = norm.view(1, -1, 1, 1) if weight.ndim == 4 else norm
    return tensors | more


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_other_kinds_do_not_show_in_the_bits(toy: Path, folder: Path, dtype: torch.dtype) -> None:
    base = load_base(str(toy / "base"), dtype=dtype, device="cpu")
    kinds = ("loha", "lokr", "full", "norm", "dora-locon-out", "locon-tucker")
    for seed, kind in enumerate(kinds):
        save_file(make(kind, base, seed=seed)[0], folder / f"{kind}.safetensors")
    write_kohya(folder / "plain.safetensors", base)
    cache = LoraCache(base, folder, 8)
    mine: Loras = [(kind, 0.1) for kind in kinds]
    inputs = unet_inputs(base)
    company: list[Loras] = [mine, [("plain", 1.0)], (), [("loha", 2.0), ("norm", 1.0)], [("full", -1.0)], mine, (), ()]
    together = mixed(cache, base, company, inputs)
    for at, loras in enumerate(company):
        row = [()] * SAMPLES
        alone = mixed(cache, base, [*row[:at], loras, *row[at + 1 :]], inputs)[at]
        assert torch.equal(together[at], alone)
    assert torch.equal(together[2], plain(base, inputs)[2])
    assert not torch.allclose(together[0], plain(base, inputs)[0], atol=0.01)


def test_a_placed_lora_takes_no_more_memory_than_its_file(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    for kind in ("loha", "lokr", "full", "dora-locon-out"):
        save_file(make(kind, base)[0], folder / f"{kind}.safetensors")
        lora_cache.acquire([(kind, 1.0)])
        changes = lora_cache._cache[kind].placed.values()
        held = sum(_bytes(change.kind) + _bytes(change.bias) for found in changes for change in found.values())
        assert 0 < held <= (folder / f"{kind}.safetensors").stat().st_size


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, tuple):
        return sum(map(_bytes, value))
    return sum(_bytes(getattr(value, name)) for name in getattr(value, "__slots__", ()))


def test_kinds_can_be_mixed_in_a_file_and_in_a_layer(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    plain_file = write_kohya(folder / "plain.safetensors", base, text=TEXT)
    loha, _ = make("loha", base)
    full, _ = make("full", base)
    stem = "lora_unet_conv_in."
    tensors = {key: tensor for key, tensor in plain_file.items() if not key.startswith(stem)}
    tensors |= {key: tensor for key, tensor in loha.items() if key.startswith(stem)}
    # A bias beside factors, as ComfyUI extracts it.
    tensors[f"{stem}diff_b"] = full[f"{stem}diff_b"]
    save_file(tensors, folder / "lora.safetensors")
    lora_cache.check([("lora", 1.0)])
    changes = lora_cache._cache["lora"].file.changes["unet"]
    assert {changes[name].title for name in changes} == {"LoRA", "LoHa"}
    assert changes["conv_in"].bias is not None
    save_file({f"{stem}diff_b": full[f"{stem}diff_b"]}, folder / "bias.safetensors")
    inputs = unet_inputs(base, samples=2)
    ours = mixed(lora_cache, base, [[("bias", 0.5)]] * 2, inputs)
    bias = base.unet.conv_in.bias
    with torch.no_grad():
        bias += 0.5 * full[f"{stem}diff_b"]
        theirs = plain(base, inputs)
        bias -= 0.5 * full[f"{stem}diff_b"]
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["locon", "loha", "lokr", "full", "dora-locon-out"])
def test_every_dtype_is_read(base: Any, folder: Path, lora_cache: LoraCache, kind: str, dtype: torch.dtype) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in make(kind, base, text=())[0].items()}
    save_file(tensors, folder / "lora.safetensors")
    save_file({key: tensor.float() for key, tensor in tensors.items()}, folder / "wide.safetensors")
    inputs = unet_inputs(base, samples=2)
    ours, wide = (mixed(lora_cache, base, [[(name, 1.0)]] * 2, inputs) for name in ("lora", "wide"))
    assert torch.allclose(ours, wide, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("alpha", [None, (), (1,), (1, 1)], ids=str)
def test_an_alpha_is_one_number_in_any_shape_or_the_rank(
    base: Any, folder: Path, lora_cache: LoraCache, alpha: tuple[int, ...] | None
) -> None:
    for kind in ("locon", "loha", "lokr"):
        tensors, _ = make(kind, base, text=())
        for key in [key for key in tensors if key.endswith(".alpha")]:
            del tensors[key]
            if alpha is not None:
                tensors[key] = torch.full(alpha, 2.0)
        save_file(tensors, folder / f"{kind}.safetensors")
        lora_cache.check([(kind, 1.0)])
        for change in lora_cache._cache[kind].file.changes["unet"].values():
            assert change.kind is not None
            assert change.kind.scale == 1.0  # type: ignore[attr-defined] # these kinds have one


def test_a_file_for_text_encoders_alone(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    tensors, _ = make("lokr", base)
    save_file({key: t for key, t in tensors.items() if key.startswith("lora_te")}, folder / "lora.safetensors")
    loras: Loras = [("lora", 1.0)]
    lora_cache.acquire(loras)
    assert lora_cache.mix([loras] * SAMPLES) is None
    bare = encoded(base)
    with lora_cache.text(loras):
        assert not torch.allclose(encoded(base), bare, atol=0.01)


def test_kinds_that_cannot_be_applied_are_named(folder: Path, lora_cache: LoraCache) -> None:
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    parts = {
        "oft_blocks": (torch.ones(4, 2, 2), "an OFT"),
        "oft_diag": (torch.ones(4), "an OFT"),
        "a1.weight": (torch.ones(4, 64), "a GLoRA"),
        "on_input": (torch.tensor(True), "an (IA)³"),
        "lambda_layer": (torch.ones(4), "a T-LoRA"),
        "set_weight": (torch.ones(4), "a LoRA of replaced weights"),
        "lora_B.bias": (torch.ones(64), "a LoRA with biases of its own"),
        "scale_weight": (torch.ones(()), "a LoRA with scaled weights (fp8)"),
    }
    for number, (part, (tensor, said)) in enumerate(parts.items()):
        save_file({f"{stem}.{part}": tensor}, folder / f"f{number}.safetensors")
        refused(lora_cache, f"f{number}", f"it is {said}, which this worker cannot apply (key {stem}.{part})")
    save_file({f"{stem}.oft_blocks": torch.ones(2, 4, 2, 2)}, folder / "boft.safetensors")
    refused(lora_cache, "boft", "it is a BOFT,")


def test_what_does_not_fit_is_refused_by_its_first_key(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    to_q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    norm = "lora_unet_conv_norm_out"
    files: dict[str, Tensors] = {}
    for kind in ("loha", "lokr", "full", "dora-locon-out", "dora-locon-in", "locon-tucker", "norm"):
        files[kind] = make(kind, base, text=())[0]
    conv = "lora_unet_conv_in"
    q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    cases: dict[str, tuple[str, dict[str, torch.Tensor | None], str]] = {
        "half": ("loha", {f"{q}.hada_w2_b": None}, f"{q}.hada_w2_b is missing"),
        "rank 0": ("loha", {f"{q}.hada_w1_b": torch.ones(0, 64), f"{q}.hada_w1_a": torch.ones(64, 0)}, "of rank 0"),
        "unequal": ("loha", {f"{q}.hada_w1_b": torch.ones(3, 64)}, "made for another model: shapes"),
        "turned": ("loha", {f"{conv}.hada_w1_a": torch.ones(36, 2), f"{conv}.hada_w1_b": torch.ones(2, 32)}, "another"),
        "nan": ("loha", {f"{q}.hada_w1_b": torch.full((2, 64), torch.nan)}, "not finite"),
        "whole numbers": ("lokr", {f"{q}.lokr_w1": torch.ones(8, 8, dtype=torch.int8)}, "not finite"),
        "one block": ("lokr", {f"{q}.lokr_w1": None}, f"{q}.lokr_w1_a is missing"),
        "both": ("lokr", {f"{q}.lokr_w2": torch.ones(8, 8)}, "both lokr_w2 and its factors"),
        "blocks": ("lokr", {f"{q}.lokr_w1": torch.ones(8, 9)}, "made for another model"),
        "huge": ("lokr", {f"{q}.lokr_w1": torch.ones(4000, 4000)}, "made for another model"),
        "width": ("full", {f"{q}.diff": torch.ones(64, 65)}, "made for another model"),
        "scalar": ("full", {f"{q}.diff": torch.tensor(1.0)}, "made for another model"),
        "bias": ("full", {f"{conv}.diff_b": torch.ones(33)}, f"{conv}.diff_b is made for another model"),
        "magnitude": ("dora-locon-out", {f"{q}.dora_scale": torch.ones(3)}, f"{q}.dora_scale is made for another"),
        "magnitudes": ("dora-locon-in", {f"{conv}.dora_scale": torch.ones(1, 9)}, f"{conv}.dora_scale is made for"),
        "only magnitude": ("norm", {f"{to_q}.dora_scale": torch.ones(64, 1)}, "a DoRA whose other parts are missing"),
        "norm's magnitude": ("norm", {f"{norm}.dora_scale": torch.ones(32)}, f"{norm}.dora_scale"),
        "core": ("locon-tucker", {f"{conv}.lora_mid.weight": torch.ones(3, 3, 3, 3)}, "made for another model"),
        "factors of a norm": ("norm", {**_factors(norm), f"{norm}.w_norm": None}, "that a LoHa can change"),
        "layer": ("full", {"lora_unet_nowhere.diff": torch.ones(2, 2)}, "lora_unet_nowhere.diff does not name a layer"),
        "same": ("norm", {f"{norm}.diff": torch.ones(32)}, "says the same as"),
    }
    for number, (kind, changes, said) in enumerate(cases.values()):
        tensors = {key: tensor for key, tensor in {**files[kind], **changes}.items() if tensor is not None}
        save_file(tensors, folder / f"f{number}.safetensors")
        refused(lora_cache, f"f{number}", said)


def _factors(stem: str) -> dict[str, torch.Tensor | None]:
    return {f"{stem}.hada_w{half}_{side}": torch.ones(4, 4) for half in (1, 2) for side in "ab"}


def test_loras_for_other_models_are_told_by_family(folder: Path, lora_cache: LoraCache) -> None:
    def pair(stem: str, width: int = 64, ends: tuple[str, str] = ("lora_down", "lora_up")) -> Tensors:
        return {f"{stem}.{ends[0]}.weight": torch.ones(4, width), f"{stem}.{ends[1]}.weight": torch.ones(64, 4)}

    attention = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    peft = ("lora_A", "lora_B")
    for number, (tensors, said) in enumerate(
        (
            (pair("lora_unet_double_blocks_0_img_attn_qkv"), "for Flux"),
            (pair("transformer.single_transformer_blocks.0.attn.to_q", 64, peft), "for Flux"),
            (pair("lora_te3_encoder_block_0"), "for Stable Diffusion 3"),
            (pair("transformer.transformer_blocks.0.attn.to_q", 64, peft), "for Stable Diffusion 3"),
            (pair(attention, 768), "for Stable Diffusion 1.5"),
            (pair(attention, 1024), "for Stable Diffusion 2"),
        )
    ):
        save_file(tensors, folder / f"f{number}.safetensors")
        refused(lora_cache, f"f{number}", f"; it looks like a LoRA {said}")
