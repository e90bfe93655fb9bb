"""How many numbers a model's networks have, from the headers of its files; no weights are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from worker.errors import ModelLoadError
from worker.models.weight_file import read_header

UNET, VAE, TEXT_1, TEXT_2 = "unet", "vae", "text_encoder", "text_encoder_2"
COMPONENTS = (UNET, TEXT_2, TEXT_1, VAE)

# How the keys of a model in one file begin, by component (`models/single_file.py`).
_SINGLE = (
    ("model.diffusion_model.", UNET),
    ("first_stage_model.", VAE),
    ("conditioner.embedders.0.transformer.", TEXT_1),
    ("conditioner.embedders.0.model.", TEXT_2),  # a refiner's only one
    ("conditioner.embedders.1.", TEXT_2),
)


@dataclass(frozen=True, slots=True)
class Network:
    """The numbers of one component; `layers` tells whether two of them may be the same network."""

    count: int
    layers: int = 0


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A model's networks, and what of their configurations decides their working memory.

    Args:
        channels: of the UNet's first level (SDXL's base 320, its refiner 384).
        vae_channels: of the VAE's levels, the largest picture's first.
        upcast: the VAE overflows in float16, and is decoded in float32 there (`force_upcast`).
        assumed: the files are not on this machine; these are the figures of SDXL itself.
    """

    networks: Mapping[str, Network]
    channels: int
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    upcast: bool = True
    assumed: bool = field(default=False, compare=False)

    def count(self, component: str) -> int:
        """The component's numbers; 0 where the model has no such component."""
        return self.networks[component].count if component in self.networks else 0


# As published; `tests/memory_plan/test_working_memory.py` builds the networks and counts.
SDXL_BASE = ModelWeights(
    {
        UNET: Network(2_567_463_684),
        TEXT_2: Network(694_659_840),
        TEXT_1: Network(123_060_480),
        VAE: Network(83_653_863),
    },
    channels=320,
    assumed=True,
)
SDXL_REFINER = ModelWeights(
    {UNET: Network(2_259_526_660), TEXT_2: Network(694_659_840), VAE: Network(83_653_863)},
    channels=384,
    assumed=True,
)


def read_weights(model_id: str, *, half: bool, assumed: ModelWeights) -> ModelWeights:
    """Return what the files of a model hold; `assumed`, where they are not on this machine and offline is set.

    A hub model that is not cached is downloaded unless HF_HUB_OFFLINE is set, as by the worker's start.

    Raises:
        ModelLoadError: the files are there and not whole.
    """
    from worker.models.pull import locate

    try:
        files = locate(model_id, half=half)
    except ModelLoadError as error:
        if "is not on this machine" in str(error):
            return assumed
        raise
    if files.is_single_file:
        return _of_single_file(model_id, files.root, assumed)
    return _of_folder(model_id, files.root, files.weights)


def _of_folder(model_id: str, root: Path, weights: Iterable[Path]) -> ModelWeights:
    networks: dict[str, Network] = {}
    for path in weights:
        header = read_header(f"{model_id}: {path.name}", path)
        before = networks.get(path.parent.name, Network(0))
        count = sum(math.prod(tensor.shape) for tensor in header.values())
        networks[path.parent.name] = Network(before.count + count, before.layers + len(header))
    unet, vae = _config(root, UNET), _config(root, VAE)
    return ModelWeights(
        networks,
        channels=int(unet.get("block_out_channels", [320])[0]),
        vae_channels=tuple(vae.get("block_out_channels", [128, 256, 512, 512])),
        upcast=bool(vae.get("force_upcast", True)),
    )


def _of_single_file(model_id: str, file: Path, assumed: ModelWeights) -> ModelWeights:
    networks: dict[str, Network] = {}
    for name, tensor in read_header(model_id, file).items():
        component = next((component for start, component in _SINGLE if name.startswith(start)), None)
        if component is not None:
            before = networks.get(component, Network(0))
            networks[component] = Network(before.count + math.prod(tensor.shape), before.layers + 1)
    beside = file.with_suffix("")
    if not (beside / VAE / "config.json").is_file():
        return ModelWeights(networks, channels=assumed.channels)
    return ModelWeights(
        networks, channels=assumed.channels, upcast=bool(_config(beside, VAE).get("force_upcast", True))
    )


def _config(root: Path, component: str) -> dict[str, list[int]]:
    config: dict[str, list[int]] = json.loads((root / component / "config.json").read_text(encoding="utf-8"))
    return config
