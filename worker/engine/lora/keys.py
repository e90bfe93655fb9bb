"""The keys of LoRA files: which part of which module's LoRA a tensor is, and which kinds are refused.

Keys are those of kohya's sd-scripts, LyCORIS, ComfyUI and PEFT. What is not known here is left to diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch

from worker.engine.lora.unfit import Unfit

Tensors = dict[str, torch.Tensor]

DOWN, UP, MID, ALPHA, DIFF, BIAS, MAGNITUDE = "down", "up", "mid", "alpha", "diff", "bias", "magnitude"
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")

# What a part of a module's LoRA is called here, by what follows the module's name in its key.
_PLAIN = {
    "lora_down.weight": DOWN,
    "lora_A.weight": DOWN,
    "lora.down.weight": DOWN,
    "lora_linear_layer.down.weight": DOWN,
    "lora_up.weight": UP,
    "lora_B.weight": UP,
    "lora.up.weight": UP,
    "lora_linear_layer.up.weight": UP,
    "alpha": ALPHA,
}
_OTHERS = {
    **{name: name for name in (*LOHA, *LOKR)},
    "lora_mid.weight": MID,
    "diff": DIFF,
    "diff_b": BIAS,
    "w_norm": DIFF,
    "b_norm": BIAS,
    "dora_scale": MAGNITUDE,
    "lora_magnitude_vector": MAGNITUDE,
    "lora_magnitude_vector.weight": MAGNITUDE,
}
# Kinds that are not applied, by their keys.
_REFUSED: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("an OFT", re.compile(r"\.(oft_|scaled_oft)")),
    ("a BOFT", re.compile(r"\.boft_")),
    ("a GLoRA", re.compile(r"\.(a1|a2|b1|b2|bm)\.weight$")),
    ("an (IA)³", re.compile(r"\.(on_input$|ia3_l)")),
    ("a T-LoRA", re.compile(r"\.(lambda_layer|[pq]_layer\.weight)$")),
    ("a VeRA", re.compile(r"\.vera_")),
    ("a LoRA of an embedding", re.compile(r"\.lora_embedding_[AB]")),
    ("a LoRA with biases of its own", re.compile(r"\.(lora_B(\.\w+)?\.bias|bias_(indices|values|size))$")),
    ("a LoRA of replaced weights", re.compile(r"\.(set_weight|reshape_weight)$")),
    ("a LoRA with scaled weights (fp8)", re.compile(r"\.(scale_weight|weight_scale|scale_input)$")),
    ("an IP-Adapter", re.compile(r"^(ip_adapter|image_proj)\.")),
)
_BOFT_DIMS = 4

_BUNDLED = "bundle_emb."

# PEFT's own names: the wrapped model's begin them, and the adapter's name follows the part.
_PEFT_ROOT = "base_model.model."
_PEFT_ADAPTER = re.compile(
    r"\.(?P<part>lora_[AB]|lora_magnitude_vector|hada_[wt]\d(?:_[ab])?|lokr_[wt]\d(?:_[ab])?)"
    r"\.(?P<adapter>(?!(?:weight|bias)$)[^.]+)(?P<rest>\.weight)?$"
)
_COMPONENT = re.compile(r"^(unet|text_encoder|text_encoder_2)\.")


class Part(NamedTuple):
    """One tensor of a module's LoRA, with its key in the file."""

    key: str
    tensor: torch.Tensor


Parts = Mapping[str, Part]


def check_kinds(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise Unfit if a key is of a kind that is not applied."""
    for key, tensor in tensors.items():
        for kind, pattern in _REFUSED:
            if pattern.search(key):
                is_boft = key.endswith("oft_blocks") and tensor.ndim == _BOFT_DIMS
                raise Unfit(f"it is {'a BOFT' if is_boft else kind}, which this worker cannot apply (key {key})")


def without_peft_names(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Return the tensors under the names that diffusers gives the keys, where they have PEFT's own.

    Raises:
        Unfit: two keys are the same then, or a key does not say which text encoder it is of.
    """
    usual: Tensors = {}
    for key, tensor in tensors.items():
        name = _PEFT_ADAPTER.sub(r".\g<part>\g<rest>", key)
        if name.startswith(_PEFT_ROOT):
            name = name.removeprefix(_PEFT_ROOT)
            if name.startswith(("text_model.", "encoder.layers.")):
                raise Unfit(f"key {key} does not say which text encoder it is of")
            name = name if _COMPONENT.match(name) else f"unet.{name}"
        else:
            name = name.replace(f".{_PEFT_ROOT}", ".", 1)
        if name in usual:
            raise Unfit(f"key {key} is of a second adapter in the same file")
        usual[name] = tensor
    return usual


def bundled(tensors: Tensors) -> dict[str, Tensors]:
    """Take the bundled embeddings (`bundle_emb.NAME.ENCODER`) out of `tensors`, by name."""
    found: dict[str, Tensors] = {}
    for key in [key for key in tensors if key.startswith(_BUNDLED)]:
        name, _, part = key.removeprefix(_BUNDLED).rpartition(".")
        if not name:
            raise Unfit(f"key {key} does not name an embedding")
        found.setdefault(name, {})[part] = tensors.pop(key)
    return found


def parts_by_stem(tensors: Mapping[str, torch.Tensor]) -> dict[str, Parts]:
    """Return the parts of each module's LoRA by what its keys begin with; unknown keys are left out.

    Raises:
        Unfit: two keys are of the same part.
    """
    found: dict[str, dict[str, Part]] = {}
    for key, tensor in tensors.items():
        for end, part in _ENDS:
            if key.endswith(end):
                parts = found.setdefault(key.removesuffix(end), {})
                if part in parts:
                    raise Unfit(f"key {key} says the same as {parts[part].key}")
                parts[part] = Part(key, tensor)
                break
    return dict(found)


def is_plain(parts: Parts) -> bool:
    """Whether a module's LoRA is one that diffusers can convert."""
    return parts.keys() <= set(_PLAIN.values())


_ENDS = tuple((f".{end}", part) for end, part in (_OTHERS | _PLAIN).items())
