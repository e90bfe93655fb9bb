"""Read LoRA files of all kinds (`kinds/`, docs/loras.md), and check them against the model.

Reading a file never executes code from it. Whatever is in a file takes effect, or the file is rejected with a sentence
that names a key: no key is ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from worker.engine.embeddings import Embedding, embedding_of
from worker.engine.lora.build import build
from worker.engine.lora.change import Change
from worker.engine.lora.converted import convert, default_scale, short
from worker.engine.lora.keys import ALPHA, bundled, check_kinds, is_plain, parts_by_stem, without_peft_names
from worker.engine.lora.model_family import family_of
from worker.engine.lora.names import COMPONENTS, ModuleNames, Place, is_foreign
from worker.engine.lora.unfit import Unfit
from worker.job import SAFE_NAME
from worker.models.fingerprint import FINGERPRINT_HEX_DIGITS

# What torch can store but not compute with. bfloat16 holds every value of 8 bits exactly.
_WIDENED = {torch.float64: torch.float32}
_MAX_BITS_OF_SMALL = 8


@dataclass(frozen=True, slots=True)
class LoraFile:
    """The content of a LoRA file: for each component of the pipeline, its changes by module name.

    As read, the tensors are in host memory and have the file's dtype. `embeddings` are textual inversions by their name
    in small letters.
    """

    fingerprint: str
    changes: dict[str, dict[str, Change]]
    embeddings: Mapping[str, Embedding] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoraTarget:
    """What is known of the model that LoRAs are read for.

    Args:
        widths: of the token embeddings of each encoder, as `embedding_widths` returns them.
    """

    names: ModuleNames
    unet_config: Any
    widths: Mapping[str, int]


def read(path: Path, target: LoraTarget) -> LoraFile:
    """Read the LoRA at `path`, and check it against the model.

    Raises:
        Unfit: the file is unreadable, of a kind that is not applied, or made for another model.
    """
    try:
        # The file is read once, so that the fingerprint is certainly that of the weights in use.
        data = path.read_bytes()
        tensors = {key: _computable(tensor) for key, tensor in sorted(load(data).items())}
        metadata = _metadata(data)
    except OSError as error:
        raise Unfit(f"its file cannot be read ({error.strerror})") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Unfit(f"its file is damaged or not safetensors ({short(error)})") from error
    if not tensors:
        raise Unfit("its file is empty")
    check_kinds(tensors)
    try:
        tensors = without_peft_names(tensors)
        embeddings = _embeddings(bundled(tensors), target.widths)
        changes = _changes(tensors, metadata, target)
    except Unfit as error:
        family = family_of(tensors)
        raise Unfit(f"{error}{'' if family is None else f'; it looks like a LoRA for {family}'}") from error
    return LoraFile(hashlib.sha256(data).hexdigest()[:FINGERPRINT_HEX_DIGITS], changes, embeddings)


def bytes_of(value: object) -> int:
    """Return what the tensors take that are held by changes, kinds, and collections of these, in bytes."""
    match value:
        case torch.Tensor():
            return value.nbytes
        case dict():
            return sum(map(bytes_of, value.values()))
        case tuple():
            return sum(map(bytes_of, value))
    if is_dataclass(value):
        return sum(bytes_of(getattr(value, each.name)) for each in fields(value))
    return 0


def _computable(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_floating_point() and torch.finfo(tensor.dtype).bits <= _MAX_BITS_OF_SMALL:
        return tensor.bfloat16()
    return tensor.to(_WIDENED.get(tensor.dtype, tensor.dtype))


def _metadata(data: bytes) -> dict[str, Any]:
    """Return the PEFT configuration that `save_lora_weights` stores in the header, which safetensors has validated."""
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    try:
        parsed = json.loads(entries.get("lora_adapter_metadata") or "{}")
    except ValueError as error:
        raise Unfit(f"diffusers cannot convert its metadata ({short(error)})") from error
    if not isinstance(parsed, dict):
        raise Unfit("diffusers cannot convert its metadata (lora_adapter_metadata is not an object)")
    return parsed


def _embeddings(found: Mapping[str, Mapping[str, torch.Tensor]], widths: Mapping[str, int]) -> dict[str, Embedding]:
    embeddings: dict[str, Embedding] = {}
    for name, tensors in found.items():
        if not SAFE_NAME.fullmatch(name) or name.lower() in embeddings:
            raise Unfit(f"its bundled embedding {short(name)} has a name that a prompt cannot use")
        try:
            embeddings[name.lower()] = embedding_of(tensors, widths)
        except ValueError as error:
            raise Unfit(f"its bundled embedding {name} cannot be used: {error}") from error
    return embeddings


def _changes(
    tensors: dict[str, torch.Tensor], metadata: Mapping[str, Any], target: LoraTarget
) -> dict[str, dict[str, Change]]:
    """Build what the names tell, and leave plain LoRAs of diffusers' and PEFT's layouts to diffusers."""
    built: dict[Place, Change] = {}
    left = dict(tensors)
    lost = []
    for stem, parts in parts_by_stem(tensors).items():
        place = target.names.find(stem)
        if is_plain(parts) and not is_foreign(stem) and (place is None or ALPHA not in parts):
            continue
        if place is None:
            lost.append(next(iter(parts.values())).key)
            continue
        if place in built:
            raise Unfit(f"key {next(iter(parts.values())).key} is of a layer that other keys name too")
        scale = default_scale(place, {} if is_foreign(stem) else metadata)
        built[place] = build(stem, parts, target.names.module(place), scale)
        for part in parts.values():
            del left[part.key]
    if lost:
        others = len(lost) - 1
        count = f" (nor do{'es' * (others == 1)} {others} other{'s' * (others > 1)}; {len(built)} layers are found)"
        raise Unfit(f"key {lost[0]} does not name a layer of this model{count if others else ''}")
    unknown = next(filter(is_foreign, left), None)
    if unknown is not None:
        raise Unfit(f"key {unknown} has an unknown layout")
    for place, change in convert(left, metadata, target.names, target.unet_config).items():
        if place in built:
            raise Unfit(f"{place.component}.{place.module} is named by keys of two layouts")
        built[place] = change
    changes: dict[str, dict[str, Change]] = {component: {} for component in COMPONENTS}
    for place, change in built.items():
        changes[place.component][place.module] = change
    return changes
