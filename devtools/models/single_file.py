"""Write a diffusers pipeline as one `.safetensors` file in SDXL's original (LDM) layout.

Most SDXL fine-tunes are distributed in this layout. This is the inverse of diffusers' `convert_ldm_*_checkpoint`, so
that loading such a file can be tested offline with a toy model.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]
Renames = tuple[tuple[str, str], ...]

_UNET_TOP: Renames = (
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^add_embedding\.linear_1", "label_emb.0.0"),
    (r"^add_embedding\.linear_2", "label_emb.0.2"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
)
_UNET_RESNET: Renames = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
_VAE: Renames = (
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"up_blocks\.(\d+)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"group_norm", "norm"),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0", "proj_out"),
)
_OPEN_CLIP: Renames = (
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_projection\.weight", "text_projection"),
    (r"\.layer_norm([12])", r".ln_\1"),
    (r"\.fc1\.", ".c_fc."),
    (r"\.fc2\.", ".c_proj."),
    (r"\.self_attn\.", ".attn."),
)


def write_single_file(base_dir: Path, file: Path) -> None:
    """Write the pipeline in `base_dir` (an SDXL base or refiner in diffusers' layout) to `file`.

    As in the original files, configs and tokenizers are not included: loading the file needs `base_dir` too, or another
    folder with the same configs.
    """
    # The text-to-image class can load a refiner as well, because text encoders are optional in both classes.
    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(base_dir, local_files_only=True)
    save_file(_ldm_weights(pipeline), file, metadata={"format": "pt"})


def _ldm_weights(pipeline: StableDiffusionXLImg2ImgPipeline | StableDiffusionXLPipeline) -> Weights:
    weights = _prefixed("model.diffusion_model.", _unet(pipeline))
    weights |= _prefixed("first_stage_model.", _vae(pipeline.vae.state_dict()))
    embedder = 0
    if pipeline.text_encoder is not None:
        clip = {
            f"text_model.{key.removeprefix('text_model.')}": tensor
            for key, tensor in pipeline.text_encoder.state_dict().items()
        }
        weights |= _prefixed("conditioner.embedders.0.transformer.", clip)
        embedder = 1
    open_clip = _open_clip(pipeline.text_encoder_2.state_dict())
    return weights | _prefixed(f"conditioner.embedders.{embedder}.model.", open_clip)


def _unet(pipeline: StableDiffusionXLImg2ImgPipeline | StableDiffusionXLPipeline) -> Weights:
    """Rename the UNet's weights; the original layout numbers blocks consecutively: a level's layers, then resampler."""
    config, state = pipeline.unet.config, pipeline.unet.state_dict()
    per_level = config.layers_per_block + 1
    renames: list[tuple[str, str]] = list(_UNET_TOP)
    for level, up_block in enumerate(config.up_block_types):
        for layer in range(per_level):
            block_in, block_out = 1 + level * per_level + layer, level * per_level + layer
            for slot, part in enumerate(("resnets", "attentions")):
                renames.append((rf"^down_blocks\.{level}\.{part}\.{layer}\.", f"input_blocks.{block_in}.{slot}."))
                renames.append((rf"^up_blocks\.{level}\.{part}\.{layer}\.", f"output_blocks.{block_out}.{slot}."))
        last = (level + 1) * per_level
        upsampler_slot = 2 if "CrossAttn" in up_block else 1
        renames.append((rf"^down_blocks\.{level}\.downsamplers\.0\.conv", f"input_blocks.{last}.0.op"))
        renames.append(
            (rf"^up_blocks\.{level}\.upsamplers\.0\.conv", f"output_blocks.{last - 1}.{upsampler_slot}.conv")
        )
    return {
        _rename(key, (*renames, *_UNET_RESNET) if ".resnets." in key else tuple(renames)): tensor
        for key, tensor in state.items()
    }


def _vae(state: Weights) -> Weights:
    levels = 1 + max(int(m[1]) for key in state if (m := re.match(r"decoder\.up_blocks\.(\d+)", key)))
    weights: Weights = {}
    for key, tensor in state.items():
        # The original layout numbers the decoder's levels from the finest one.
        counted = re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", key)
        name = _rename(counted, _VAE)
        is_attention_matrix = ".attn_1." in name and tensor.ndim == 2
        weights[name] = tensor[:, :, None, None] if is_attention_matrix else tensor
    return weights


def _open_clip(state: Weights) -> Weights:
    weights: Weights = {}
    for key, tensor in state.items():
        if match := re.search(r"\.self_attn\.q_proj\.(weight|bias)$", key):
            parts = [state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            stem = _rename(key[: match.start()] + ".self_attn.", _OPEN_CLIP)
            weights[f"{stem}in_proj_{match[1]}"] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", key):
            name = _rename(key, _OPEN_CLIP)
            weights[name] = tensor.T if name == "text_projection" else tensor
    return weights


def _rename(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: tensor.contiguous() for key, tensor in weights.items()}
