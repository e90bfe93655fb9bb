"""Random LoRAs of LyCORIS' kinds, made and merged by the `lycoris-lora` package itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule

from tests.engine.lora_files import TEXT, TEXT_MODULES, UNET_MODULES, Tensors

NORMS = ("down_blocks.0.resnets.0.norm1", "down_blocks.1.attentions.0.transformer_blocks.0.norm2", "conv_norm_out")
PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
RANK, ALPHA = 2, 3.0

Make = Callable[[str, Any], Any]

# Every kind that LyCORIS writes and this worker applies, as the trainers' options make it.
KINDS: dict[str, Make] = {
    "locon": lambda name, layer: LoConModule(name, layer, 1.0, RANK, ALPHA),
    "locon-tucker": lambda name, layer: LoConModule(name, layer, 1.0, RANK, ALPHA, use_tucker=True),
    "loha": lambda name, layer: LohaModule(name, layer, 1.0, RANK, ALPHA),
    "loha-tucker": lambda name, layer: LohaModule(name, layer, 1.0, RANK, ALPHA, use_tucker=True),
    "lokr": lambda name, layer: LokrModule(name, layer, 1.0, RANK, ALPHA),
    "lokr-whole": lambda name, layer: LokrModule(name, layer, 1.0, RANK, ALPHA, full_matrix=True),
    "lokr-both": lambda name, layer: LokrModule(name, layer, 1.0, 1, ALPHA, decompose_both=True, factor=8),
    "lokr-tucker": lambda name, layer: LokrModule(name, layer, 1.0, RANK, ALPHA, use_tucker=True, factor=4),
    "lokr-unbalanced": lambda name, layer: LokrModule(
        name, layer, 1.0, RANK, ALPHA, unbalanced_factorization=True, factor=4
    ),
    "full": lambda name, layer: FullModule(name, layer, 1.0),
    "norm": lambda name, layer: NormModule(name, layer, 1.0),
}


def _decomposed(module: Any, on_out: bool) -> Make:
    return lambda name, layer: module(name, layer, 1.0, RANK, ALPHA, weight_decompose=True, wd_on_out=on_out)


DORAS: dict[str, Make] = {
    f"dora-{kind}-{'out' if on_out else 'in'}": _decomposed(module, on_out)
    for kind, module in (("locon", LoConModule), ("loha", LohaModule), ("lokr", LokrModule))
    for on_out in (True, False)
}


def make(kind: str, pipeline: Any, *, seed: int = 0, text: Sequence[str] = TEXT) -> tuple[Tensors, list[Any]]:
    """Return the file's tensors, and the package's modules for `apply`."""
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    modules = []
    for name, layer in _layers(kind, pipeline, text):
        module = (KINDS | DORAS)[kind](name, layer)
        for key, parameter in module.named_parameters():
            # Zeros at the start of a training would hide everything, and magnitudes are near the weights' norms.
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data * (1 + noise / 10) if key == "dora_scale" else noise / 3
        tensors |= {f"{name}.{key}": tensor.detach().clone() for key, tensor in _state(module).items()}
        modules.append(module)
    return tensors, modules


def apply(modules: Sequence[Any], weight: float) -> None:
    """Let the package apply the LoRA to the pipeline that it was made for.

    Not by `merge_to`, except of full differences: in 4.1.3 that multiplies a LoHa's and a LoKr's alpha / rank twice.
    """
    for module in modules:
        module.multiplier = weight
        if isinstance(module, FullModule):
            module.merge_to(weight)
        else:
            module.apply_to()


def _state(module: Any) -> Tensors:
    if isinstance(module, FullModule):
        # What it saves after a training; before that it takes the original weights off once more.
        return {"diff": module.weight} | ({} if module.bias is None else {"diff_b": module.bias})
    state: Tensors = module.custom_state_dict() or module.state_dict()
    return state


def _layers(kind: str, pipeline: Any, text: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for name in NORMS if kind == "norm" else UNET_MODULES:
        yield f"{PREFIXES['unet']}_{name.replace('.', '_')}", pipeline.unet.get_submodule(name)
    for component in text:
        encoder = getattr(pipeline, component)
        outer = "text_model." if hasattr(encoder, "text_model") else ""
        for module in ("layer_norm1",) if kind == "norm" else TEXT_MODULES:
            inner = f"encoder.layers.0.{module}"
            yield (
                f"{PREFIXES[component]}_text_model_{inner.replace('.', '_')}",
                encoder.get_submodule(f"{outer}{inner}"),
            )
