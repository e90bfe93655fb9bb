"""The names that LoRA files give the modules of SDXL: diffusers', and Stability's for the UNet's blocks.

A key begins with a prefix for the component and the module's name, in which kohya's layout has `_` for every dot. Names
are looked up in a table made of the model's own modules, so whatever is found is there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

UNET, TEXT_ENCODERS = "unet", ("text_encoder", "text_encoder_2")
COMPONENTS = (UNET, *TEXT_ENCODERS)

# Prefixes that only kohya's sd-scripts, LyCORIS and ComfyUI use.
_FOREIGN_PREFIXES = {
    "lora_unet_": UNET,
    "lycoris_": UNET,
    "diffusion_model.": UNET,
    "model.diffusion_model.": UNET,
    "lora_te1_": TEXT_ENCODERS[0],
    "lora_te2_": TEXT_ENCODERS[1],
    "lora_te_": TEXT_ENCODERS[0],
    "text_encoders.clip_l.transformer.": TEXT_ENCODERS[0],
    "text_encoders.clip_g.transformer.": TEXT_ENCODERS[1],
}
# diffusers' and PEFT's.
_OWN_PREFIXES = {f"{component}.": component for component in COMPONENTS}

# The inner layers of Stability's residual blocks, by diffusers' name.
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


class Place(NamedTuple):
    """A module of the pipeline: the component that it is in, and its name there."""

    component: str
    module: str


class ModuleNames:
    """The modules of a `StableDiffusionXLPipeline` that LoRAs can change, by every name that files give them."""

    def __init__(self, pipeline: Any) -> None:
        self.modules: dict[str, Mapping[str, torch.nn.Module]] = {
            component: dict(getattr(pipeline, component).named_modules()) for component in COMPONENTS
        }
        self._found: dict[str, dict[str, str]] = {component: {} for component in COMPONENTS}
        for name in self.modules[UNET]:
            self._found[UNET][_flat(name)] = name
        for name, theirs in stability_names(pipeline.unet).items():
            self._found[UNET][_flat(theirs)] = name
        for component in TEXT_ENCODERS:
            for name in self.modules[component]:
                # Newer releases of transformers have flattened CLIPTextModel, but files use the old module names.
                bare = _flat(name.removeprefix("text_model."))
                self._found[component] |= {bare: name, f"text_model_{bare}": name}

    def find(self, stem: str) -> Place | None:
        """Return the module that a key, without what follows the module's name, belongs to; None if there is none."""
        for prefix, component in itertools.chain(_FOREIGN_PREFIXES.items(), _OWN_PREFIXES.items()):
            if stem.startswith(prefix):
                module = self._found[component].get(_flat(stem.removeprefix(prefix)))
                if module:
                    return Place(component, module)
        return None

    def module(self, place: Place) -> torch.nn.Module:
        """Return the module at a place."""
        return self.modules[place.component][place.module]


def is_foreign(stem: str) -> bool:
    """Whether a key is of kohya's, LyCORIS' or ComfyUI's layout, rather than of diffusers' or PEFT's."""
    return stem.startswith(tuple(_FOREIGN_PREFIXES))


def _flat(name: str) -> str:
    return name.replace(".", "_")


def stability_names(unet: Any) -> dict[str, str]:
    """Return Stability's names of the UNet's modules inside its blocks, by diffusers' names."""
    named = {}
    names = [name for name, _ in unet.named_modules()]
    for theirs, ours in _stability_blocks(unet):
        for name in names:
            if name == ours or name.startswith(f"{ours}."):
                inner = name.removeprefix(f"{ours}.") if name != ours else ""
                if ".resnets." in ours:
                    inner = _RESNET.get(inner, inner)
                named[name] = f"{theirs}.{inner}".rstrip(".")
    return named


def _stability_blocks(unet: Any) -> Iterator[tuple[str, str]]:
    """Yield Stability's and diffusers' names of the UNet's blocks, from the blocks that it has."""
    yield from ((theirs, ours) for ours, theirs in _OUTSIDE_BLOCKS.items())
    at = 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            yield f"input_blocks.{at}.0", f"down_blocks.{i}.resnets.{j}"
            yield f"input_blocks.{at}.1", f"down_blocks.{i}.attentions.{j}"
            at += 1
        if block.downsamplers is not None:
            yield f"input_blocks.{at}.0.op", f"down_blocks.{i}.downsamplers.0.conv"
            at += 1
    yield from (
        ("middle_block.0", "mid_block.resnets.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("middle_block.2", "mid_block.resnets.1"),
    )
    at = 0
    for i, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            yield f"output_blocks.{at}.0", f"up_blocks.{i}.resnets.{j}"
            yield f"output_blocks.{at}.1", f"up_blocks.{i}.attentions.{j}"
            at += 1
        if block.upsamplers is not None:
            # After the attention where the block has one.
            behind = 2 if hasattr(block, "attentions") else 1
            yield f"output_blocks.{at - 1}.{behind}.conv", f"up_blocks.{i}.upsamplers.0.conv"
