"""Merged LoRAs: the same bits every time, the same picture as by hooks, and the model's own weights unharmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.lora_files import TEXT, load_into, set_adapters, write_kohya, write_peft
from tests.engine.lycoris_files import KINDS, make
from tests.engine.test_lora_batch import mixed, plain, unet_inputs
from worker.engine.lora import exchange
from worker.engine.lora.cache import LoraCache, Loras
from worker.engine.lora.exchange import LoraSet
from worker.models.load import load_base

# PEFT, of every second adapter.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Already found a `peft_config`")]

SAMPLES = 2
TOLERANCE = 1e-5
BOTH = pytest.mark.parametrize("second_copy", [True, False], ids=["second copy", "in place"])
A, B = [("a", 0.8)], [("b", -1.3), ("a", 0.4)]


@pytest.fixture
def own(toy: Path) -> Any:
    """A pipeline whose weights a test may overwrite."""
    return load_base(str(toy / "base"), dtype=torch.float32, device="cpu")


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_SLICE_ELEMENTS", 1)


def caches(base: Any, folder: Path, **options: Any) -> LoraCache:
    write_peft(folder / "a.safetensors", base, seed=1, text=TEXT)
    write_kohya(folder / "b.safetensors", base, seed=2, rank=8)
    return LoraCache(base, folder, **options)


def merge(cache: LoraCache, loras: Loras) -> LoraSet | None:
    """Merge acquired LoRAs and use them."""
    cache.acquire(loras, TEXT)
    wanted = cache.merged_set(loras)
    cache.exchange.bring(wanted)
    return wanted


def weights(base: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in base.unet.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@BOTH
def test_a_set_has_the_same_bits_whatever_was_merged_before(own: Any, folder: Path, second_copy: bool) -> None:
    cache, pristine = caches(own, folder, second_copy=second_copy), weights(own)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, loras in (("a", A), ("b", B), ("none", ()), ("b", B), ("a", A), ("b", B), ("none", ())):
        merge(cache, loras)
        assert same(found.setdefault(name, weights(own)), weights(own))
    assert same(found["none"], pristine)
    assert not same(found["a"], found["b"])


def test_both_ways_give_the_same_bits(own: Any, toy: Path, folder: Path) -> None:
    other = load_base(str(toy / "base"), dtype=torch.float32, device="cpu")
    merge(caches(own, folder), B)
    merge(caches(other, folder, second_copy=False), B)
    assert same(weights(own), weights(other))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_what_its_hooks_do(own: Any, folder: Path, kind: str) -> None:
    save_file(make(kind, own)[0], folder / "lora.safetensors")
    cache, inputs, loras = LoraCache(own, folder), unet_inputs(own, samples=SAMPLES), [("lora", 0.7)]
    hooked = mixed(cache, own, [loras] * SAMPLES, inputs)
    merge(cache, loras)
    assert torch.allclose(plain(own, inputs), hooked, atol=TOLERANCE, rtol=TOLERANCE)
    cache.exchange.use(None)
    assert not torch.allclose(plain(own, inputs), hooked, atol=0.001)


def test_merged_weights_are_those_of_diffusers(own: Any, reference: Any, folder: Path) -> None:
    """Diffusers multiplies the scale and the weight before the matrices, so that the last bits may differ."""
    one = write_peft(folder / "one.safetensors", own, seed=1)
    two = write_kohya(folder / "two.safetensors", own, seed=2, rank=8)
    cache, loras = LoraCache(own, folder), [("one", 0.8), ("two", -0.5)]
    load_into(reference, one=one, two=two)
    set_adapters(reference, loras)
    reference.fuse_lora(components=["unet"], adapter_names=["one", "two"])
    reference.unload_lora_weights()
    merge(cache, loras)
    ours, theirs = weights(own), weights(reference)
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-6


@BOTH
def test_what_has_no_effect_is_not_merged(own: Any, folder: Path, second_copy: bool) -> None:
    cache, pristine = caches(own, folder, second_copy=second_copy), weights(own)
    write_peft(folder / "same.safetensors", own, seed=1)
    write_peft(folder / "text.safetensors", own, seed=3, text=TEXT[1:])
    tensors = {key: value for key, value in load_file(folder / "text.safetensors").items() if key.startswith("text")}
    save_file(tensors, folder / "text.safetensors")
    for loras in ([("a", 0.0)], [("text", 1.0)], [("text", 1.0), ("a", 0.0)]):
        assert merge(cache, loras) is None
        assert same(weights(own), pristine)
    # Opposite weights of equal LoRAs leave rounding errors, the same ones every time.
    opposite = [("a", 0.7), ("same", -0.7)]
    merge(cache, opposite)
    found = weights(own)
    assert all(torch.allclose(found[name], pristine[name], atol=1e-6) for name in found)
    merge(cache, B)
    merge(cache, opposite)
    assert same(weights(own), found)


@pytest.mark.usefixtures("small_slices")
@BOTH
def test_half_merged_weights_are_never_used(own: Any, folder: Path, second_copy: bool) -> None:
    cache, pristine = caches(own, folder, second_copy=second_copy), weights(own)
    ours = cache.exchange
    expected = {}
    for loras in (A, B):
        wanted = merge(cache, loras)
        expected[wanted] = weights(own)
    [first, second] = expected
    # Each is begun, given up for the other half way, and brought again.
    for wanted, other in ((first, second), (second, first)) * 2:
        assert not ours.advance(wanted, lambda: False)
        assert not ours.advance(other, lambda: False)
        assert not ours.ready(first)
        assert not ours.ready(second)
        assert ours.holds is None
        assert ours.ready(None) == second_copy
        with pytest.raises(AssertionError):
            ours.use(wanted)
        if second_copy:
            ours.use(None)
            assert same(weights(own), pristine)
        ours.bring(wanted)
        assert same(weights(own), expected[wanted])
    ours.bring(None)
    assert same(weights(own), pristine)


@pytest.mark.usefixtures("small_slices")
def test_an_allocation_that_fails_leads_to_host_memory_and_back(
    own: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, pristine = caches(own, folder), weights(own)
    merge(cache, A)
    expected = weights(own)
    ours, calls, real = cache.exchange, [0], torch.empty_like

    def short(tensor: torch.Tensor, **options: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 3 and "device" not in options:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(tensor, **options)

    fresh = LoraCache(own, folder)
    ours.use(None)
    monkeypatch.setattr(torch, "empty_like", short)
    merge(fresh, A)
    assert calls[0] > 3, "nothing failed"
    assert not fresh.exchange.has_second_copy
    assert fresh.exchange.bytes_held == 0
    assert same(weights(own), expected)
    fresh.exchange.take_room()
    assert fresh.exchange.has_second_copy
    assert same(weights(own), pristine)
    merge(fresh, A)
    assert same(weights(own), expected)


@BOTH
def test_a_lora_may_bring_a_bias_to_a_layer_without_one(own: Any, folder: Path, second_copy: bool) -> None:
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    layer: Any = own.unet.get_submodule(name)
    biases: list[Any] = [layer.bias]
    bias = torch.randn(layer.weight.shape[0])
    save_file({f"diffusion_model.{name}.diff_b": bias}, folder / "bias.safetensors")
    cache, inputs = caches(own, folder, second_copy=second_copy), unet_inputs(own, samples=SAMPLES)
    merge(cache, A)
    before = plain(own, inputs)
    merge(cache, [("bias", 0.5)])
    assert torch.equal(layer.bias, bias * 0.5)
    merge(cache, A)
    biases.append(layer.bias)
    assert torch.equal(plain(own, inputs), before)
    cache.exchange.bring(None)
    assert [*biases, layer.bias] == [None] * 3, "a bias of zeros takes another kernel"
