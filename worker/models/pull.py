"""Resolve a model id to files on this machine, and download those that are missing.

A model id is a folder in diffusers' layout, a `.safetensors` file, or a hub id, which may end in `@` and a revision (a
commit, a tag or a branch). Exactly the files that will be loaded
are selected for each component, so that a download of SDXL takes 7 GB and not the 70 GB of its repository, and so that
the fingerprint describes what is in memory. Pickled weights are never read, because unpickling runs whatever code the
file contains.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from worker.errors import ModelLoadError
from worker.models.hub import Source, fetch
from worker.models.packaging import check_folder, check_single_file, read_index
from worker.models.verify import verify

WEIGHT_COMPONENTS = frozenset({"unet", "vae", "text_encoder", "text_encoder_2"})
CONFIG_COMPONENTS = frozenset({"scheduler", "tokenizer", "tokenizer_2"})
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl"})
VARIANT = "fp16"

_HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w.][\w./-]*))?")
# Names of weight files in diffusers and transformers, in one file or sharded. Other files next to them (EMA copies,
# ONNX, OpenVINO, Flax) are other exports of the same weights.
_PLAIN_WEIGHTS = re.compile(r"(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_VARIANT_WEIGHTS = re.compile(
    rf"(diffusion_pytorch_)?model\.({VARIANT}(-\d+-of-\d+)?\.safetensors|safetensors\.index\.{VARIANT}\.json)"
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The location of a model and its files that are loaded.

    Attributes:
        root: the folder in diffusers' layout, or the `.safetensors` file itself.
        weights: the weight files only, in a stable order.
        variant: `fp16` if any files with that name are the ones to load.
        configs: configurations and tokenizers of a folder, in a stable order.
    """

    model_id: str
    root: Path
    weights: tuple[Path, ...]
    variant: str | None = None
    configs: tuple[Path, ...] = ()

    @property
    def is_single_file(self) -> bool:
        return self.root.is_file()

    def variant_of(self, component: str) -> str | None:
        """Return `fp16` if the weights to load of `component` have that name."""
        own = [path.name for path in self.weights if path.parent.name == component]
        return VARIANT if any(map(_is_variant, own)) else None

    @property
    def commit(self) -> str | None:
        """The commit of a model from the hub."""
        return self.root.name if self.root.parent.name == "snapshots" else None

    @property
    def size_bytes(self) -> int:
        """The total size of the weight files."""
        return sum(path.stat().st_size for path in self.weights)


def pull(model_ids: Iterable[str], *, half: bool, cache_dir: Path | None = None) -> list[ModelFiles]:
    """Make sure that every model is on this machine, with progress bars on stderr.

    Folders and single files are checked. Hub models are downloaded into `cache_dir` (default: the hub client's own,
    `HF_HOME`); an interrupted download is resumed. `HF_TOKEN` and `HF_HUB_OFFLINE` are honoured.

    Args:
        half: whether half precision will be loaded; most repositories have separate files for it.

    Raises:
        ModelLoadError: a model is missing, incomplete, pickled, or the hub does not answer.
    """
    return [locate(model_id, half=half, cache_dir=cache_dir, verified=True) for model_id in model_ids]


def loads_half(dtype: str, device: str) -> bool:
    """Return whether a worker with these settings loads half precision; with `auto`, a GPU is assumed."""
    return device != "cpu" if dtype == "auto" else dtype != "float32"


def locate(model_id: str, *, half: bool, cache_dir: Path | None = None, verified: bool = False) -> ModelFiles:
    """Find the files of one model; those of a hub model are downloaded if they are missing.

    Args:
        verified: show progress, and compare every file with its digest.

    Raises:
        ModelLoadError: as raised by `pull`.
    """
    path = Path(model_id).expanduser()
    if path.suffix.lower() in PICKLE_SUFFIXES and not path.is_dir():
        raise ModelLoadError(f"{model_id} is a pickle, which can run code when it is read: convert it to .safetensors.")
    if path.is_file():
        return _check_single_file(model_id, path)
    if path.is_dir():
        return _check_folder(model_id, path, half=half)
    hub = _HUB_ID.fullmatch(model_id)
    if path.suffix.lower() == ".safetensors" or hub is None:
        raise ModelLoadError(f"{model_id}: no such file or folder.")
    source = Source(model_id, hub["repository"], hub["revision"], cache_dir)
    root = fetch(source, lambda names: select_files(names, half=half), progress=verified)
    if verified:
        verify(model_id, root, select_files(_names(root), half=half))
    try:
        return _check_folder(model_id, root, half=half)
    except ModelLoadError as error:
        raise ModelLoadError(
            str(error) if verified else f"{error} Is the download complete? See models pull."
        ) from None


def select_files(names: Collection[str], *, half: bool) -> list[str]:
    """Select the files that are loaded from a repository's file names (POSIX paths, relative), sorted.

    Half precision uses a component's `fp16` files if there are any, and its plain files otherwise. Full precision uses
    `fp16` files only from a repository that has no plain UNet.
    """
    by_component: dict[str, list[PurePosixPath]] = {}
    for name in map(PurePosixPath, names):
        if len(name.parts) == 2:
            by_component.setdefault(name.parts[0], []).append(name)
    prefer_variant = half or not any(_PLAIN_WEIGHTS.fullmatch(n.name) for n in by_component.get("unet", ()))

    chosen = {PurePosixPath("model_index.json")} & set(map(PurePosixPath, names))
    for component, files in by_component.items():
        if component in CONFIG_COMPONENTS:
            chosen.update(f for f in files if f.suffix in {".json", ".txt"})
        elif component in WEIGHT_COMPONENTS:
            chosen.update(f for f in files if f.name == "config.json")
            chosen.update(_component_weights(files, prefer_variant))
    return sorted(map(str, chosen))


def _component_weights(files: list[PurePosixPath], prefer_variant: bool) -> list[PurePosixPath]:
    if prefer_variant and (variant := [f for f in files if _VARIANT_WEIGHTS.fullmatch(f.name)]):
        return variant
    return [f for f in files if _PLAIN_WEIGHTS.fullmatch(f.name)]


def _check_single_file(model_id: str, path: Path) -> ModelFiles:
    if path.suffix.lower() != ".safetensors":
        raise ModelLoadError(f"{model_id}: a model in one file must be a .safetensors file.")
    check_single_file(model_id, path)
    return ModelFiles(model_id, path, (path,))


def _check_folder(model_id: str, root: Path, *, half: bool) -> ModelFiles:
    components = read_index(model_id, root)
    names = select_files(_names(root), half=half)
    weights = [name for name in names if name.endswith(".safetensors")]
    absent = (WEIGHT_COMPONENTS & components.keys()) - {name.split("/")[0] for name in weights}
    if absent:
        raise ModelLoadError(
            f"{model_id} has no .safetensors weights for {', '.join(sorted(absent))} "
            "(pickled .bin weights are not read)."
        )
    check_folder(model_id, root, names, components)
    loaded = [name for name in names if name == "model_index.json" or name.split("/")[0] in components]
    return ModelFiles(
        model_id,
        root,
        tuple(root / name for name in loaded if name.endswith(".safetensors")),
        VARIANT if any(_is_variant(name) for name in weights) else None,
        configs=tuple(root / name for name in loaded if not name.endswith(".safetensors")),
    )


def _names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for pattern in ("*", "*/*") for path in root.glob(pattern)]


def _is_variant(name: str) -> bool:
    return _VARIANT_WEIGHTS.fullmatch(PurePosixPath(name).name) is not None
