"""Check that a model's files are complete before any of them is loaded; needs no torch.

The libraries forgive much: transformers fills missing weights at random, and a tokenizer without vocabulary reads every
prompt as the same. So everything that will be loaded is looked at here, and the first thing that is missing is named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from worker.errors import ModelLoadError
from worker.models.vocabulary import check_tokenizer, read_json
from worker.models.weight_file import Tensor, check_dtypes, read_header

# The pipelines for SDXL's weights. What makes a base, a refiner or an inpainting model is judged by its contents.
_PIPELINES = frozenset(
    {"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"}
)
# The class of each component that the worker can run.
_CLASSES: Mapping[str, frozenset[str]] = {
    "unet": frozenset({"UNet2DConditionModel"}),
    "vae": frozenset({"AutoencoderKL"}),
    "text_encoder": frozenset({"CLIPTextModel"}),
    "text_encoder_2": frozenset({"CLIPTextModelWithProjection"}),
    "tokenizer": frozenset({"CLIPTokenizer", "CLIPTokenizerFast"}),
    "tokenizer_2": frozenset({"CLIPTokenizer", "CLIPTokenizerFast"}),
}
# A refiner has neither a first tokenizer nor a first text encoder.
_REQUIRED = ("scheduler", "text_encoder_2", "tokenizer_2", "unet", "vae")
_PAIRS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
_SHARD = re.compile(r".*-\d+-of-\d+\.safetensors")


def read_index(model_id: str, root: Path) -> dict[str, str]:
    """Return the class of every component that `model_index.json` names.

    Raises:
        ModelLoadError: there is no index, it cannot be read, or it is that of another pipeline.
    """
    if not (root / "model_index.json").is_file():
        raise ModelLoadError(f"{model_id} has no model_index.json: it is not a model in diffusers' layout.")
    index = read_json(f"{model_id}: model_index.json", root / "model_index.json")
    try:
        pipeline = index["_class_name"]
        # An absent component is listed as `[null, null]`.
        found = {name: entry[1] for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None}
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ModelLoadError(f"{model_id}: model_index.json cannot be read ({error!r}).") from None
    if pipeline not in _PIPELINES:
        raise ModelLoadError(f"{model_id} is not an SDXL model: its model_index.json names {pipeline}.")
    for name in _REQUIRED:
        if name not in found:
            raise ModelLoadError(f"{model_id} is not complete: its model_index.json has no {name}.")
    for name, allowed in _CLASSES.items():
        if name in found and found[name] not in allowed:
            wanted = " or ".join(sorted(allowed))
            raise ModelLoadError(f"{model_id}: {name} is a {found[name]}; the worker needs a {wanted}.")
    for tokenizer, encoder in _PAIRS:
        if encoder in found and tokenizer not in found:
            raise ModelLoadError(f"{model_id} is not complete: its model_index.json has no {tokenizer}.")
    return found


def check_folder(model_id: str, root: Path, names: Collection[str], components: Collection[str]) -> None:
    """Check the files of a model in diffusers' layout.

    Args:
        names: the files that will be loaded, relative to `root` (`pull.select_files`).
        components: those that the index names.

    Raises:
        ModelLoadError: a file is missing, cut short, damaged, or does not fit the others; the message names the first.
    """
    configs: dict[str, Any] = {}
    for name in sorted(_CLASSES.keys() & set(components)):
        if not name.startswith("tokenizer"):
            configs[name] = _read_object(f"{model_id}: {name}/config.json", root / name / "config.json")
    scheduler = "scheduler/scheduler_config.json"
    _read_object(f"{model_id}: {scheduler}", root / scheduler)
    for tokenizer, encoder in _PAIRS:
        if encoder in components:
            check_tokenizer(model_id, root, tokenizer, configs[encoder])
    weights = [name for name in names if name.endswith(".safetensors")]
    _check_shards(model_id, root, names)
    for name in weights:
        shown = f"{model_id}: {name}"
        check_dtypes(shown, read_header(shown, root / name))


def check_single_file(model_id: str, file: Path) -> dict[str, Tensor]:
    """Return the header of a model in one file.

    Raises:
        ModelLoadError: the file is cut short or damaged, or holds quantised weights.
    """
    header = read_header(model_id, file)
    check_dtypes(model_id, header)
    return header


def _read_object(shown: str, file: Path) -> dict[str, Any]:
    content = read_json(shown, file)
    if not isinstance(content, dict):
        raise ModelLoadError(f"{shown} is not a JSON object.")
    if "quantization_config" in content:
        raise ModelLoadError(f"{shown} is that of quantised weights, which are not supported.")
    return content


def _check_shards(model_id: str, root: Path, names: Collection[str]) -> None:
    listed: set[str] = set()
    for name in (name for name in names if ".safetensors.index" in name):
        folder = PurePosixPath(name).parent
        index = _read_object(f"{model_id}: {name}", root / name)
        try:
            shards = sorted({str(folder / shard) for shard in index["weight_map"].values()})
        except (AttributeError, KeyError, TypeError):
            raise ModelLoadError(f"{model_id}: {name} has no weight_map.") from None
        for shard in shards:
            if shard not in names:
                raise ModelLoadError(f"{model_id}: {shard} is missing.")
        listed.update(shards)
    for name in names:
        if _SHARD.fullmatch(name) and name not in listed:
            raise ModelLoadError(f"{model_id}: {name} is a part, but the .index.json that lists the parts is missing.")
