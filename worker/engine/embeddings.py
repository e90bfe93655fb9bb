"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): learned vectors that stand in a prompt where their name does.

A file `NAME.safetensors` holds `clip_l` and `clip_g`, one vector or several for each text encoder of SDXL. A prompt
names it as a word (`NAME`, in any case), or as `embedding:NAME`, which must exist. All files are read once, at the
start; one that cannot be used is told then, and refused where a prompt names it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from worker.errors import ErrorCode, RequestRejected
from worker.job import SAFE_NAME
from worker.models.fingerprint import FINGERPRINT_HEX_DIGITS

_log = structlog.get_logger()

# Names of the tensors in a file, for the base's first and second text encoder; the refiner has the second alone.
CLIP_L, CLIP_G = "clip_l", "clip_g"

# One chunk of a prompt, which vectors of one file never leave.
MAX_VECTORS = 75
_SUFFIX = ".safetensors"
_PICKLED = (".pt", ".bin", ".pth", ".ckpt")
_NAMED = re.compile(r"(?<![\w.-])(?P<explicit>embedding:\s*)?(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]*)", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Vectors by encoder, each (vectors, width), float32 on the host."""

    vectors: Mapping[str, torch.Tensor]

    def equals(self, other: Embedding) -> bool:
        """Whether the vectors are the same."""
        return self.vectors.keys() == other.vectors.keys() and all(
            torch.equal(vectors, other.vectors[name]) for name, vectors in self.vectors.items()
        )


@dataclass(frozen=True, slots=True)
class Mention:
    """An embedding that a text names, at characters `first` to `last` (exclusive)."""

    first: int
    last: int
    embedding: Embedding


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The usable embeddings and the sentences about the others, by name in small letters.

    Args:
        fingerprint: of all usable files, names included; None without any.
    """

    usable: Mapping[str, Embedding] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    enabled: bool = False

    def mentions(self, text: str) -> Iterator[Mention]:
        """Find the embeddings that `text` names, from left to right.

        Raises:
            RequestRejected: `invalid_request`, if it names one that cannot be used, or by `embedding:` one that is not
                there.
        """
        if not self.enabled:
            return
        for found in _NAMED.finditer(text):
            # A name may have dots, but a sentence may end with it too.
            for name in dict.fromkeys((found["name"], found["name"].rstrip(".-"))):
                embedding = self._named(name)
                if embedding is not None:
                    yield Mention(found.start(), found.start("name") + len(name), embedding)
                    break
            else:
                if found["explicit"]:
                    raise _refused(f"the prompt names the embedding {found['name']}, which this worker does not have")

    def with_bundled(self, bundled: Mapping[str, Embedding]) -> Embeddings:
        """Return these and the ones that LoRAs bring, by name in small letters; a LoRA's counts where both have one."""
        if not bundled:
            return self
        unusable = {name: reason for name, reason in self.unusable.items() if name not in bundled}
        return Embeddings({**self.usable, **bundled}, unusable, self.fingerprint, enabled=True)

    def _named(self, name: str) -> Embedding | None:
        key = name.lower()
        if key in self.unusable:
            raise _refused(f"the embedding {name} cannot be used: {self.unusable[key]}")
        return self.usable.get(key)


def read_embeddings(folder: Path | None, widths: Mapping[str, int]) -> Embeddings:
    """Read all files of a folder; what cannot be used is logged.

    Args:
        folder: None: there are no embeddings, and their names are words.
        widths: of the token embeddings of each encoder, by `CLIP_L` and `CLIP_G`.
    """
    if folder is None:
        return Embeddings()
    usable, unusable, digest = {}, {}, hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in (_SUFFIX, *_PICKLED) or not SAFE_NAME.fullmatch(path.stem):
            continue
        name = path.stem.lower()
        try:
            if name in usable or name in unusable:
                raise ValueError("another file has the same name")
            data = path.read_bytes()
            usable[name] = _read(path, data, widths)
        except (OSError, ValueError) as error:
            usable.pop(name, None)
            unusable[name] = str(error)
            _log.warning("embedding_unusable", file=str(path), reason=str(error))
        else:
            digest.update(f"{name}:{hashlib.sha256(data).hexdigest()};".encode())
    fingerprint = digest.hexdigest()[:FINGERPRINT_HEX_DIGITS] if usable else None
    return Embeddings(usable, unusable, fingerprint, enabled=True)


def embedding_widths(base: Any) -> dict[str, int]:
    """Return the widths of the token embeddings of a `StableDiffusionXLPipeline`, as `read_embeddings` takes them."""
    encoders = {CLIP_L: base.text_encoder, CLIP_G: base.text_encoder_2}
    return {name: encoder.get_input_embeddings().embedding_dim for name, encoder in encoders.items()}


def _read(path: Path, data: bytes, widths: Mapping[str, int]) -> Embedding:
    """Read one file. Raises ValueError with a sentence: it is not an embedding for SDXL."""
    if path.suffix.lower() in _PICKLED:
        raise ValueError("it is pickled and could run code; convert it to safetensors")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file ({error})") from error
    return embedding_of(tensors, widths)


def embedding_of(tensors: Mapping[str, torch.Tensor], widths: Mapping[str, int]) -> Embedding:
    """Return the embedding of a file's tensors. Raises ValueError with a sentence: it is not an embedding for SDXL."""
    for name in (CLIP_L, CLIP_G):
        if name not in tensors:
            raise ValueError(f"it has no {name} vectors, so it was made for another model than SDXL")
    vectors = {name: _rows(tensors[name]).float() for name in (CLIP_L, CLIP_G)}
    for name, width in widths.items():
        if vectors[name].ndim != 2 or vectors[name].shape[1] != width:
            raise ValueError(
                f"its {name} vectors are of shape {tuple(tensors[name].shape)}; this model's are {width} wide"
            )
        if not vectors[name].isfinite().all():
            raise ValueError(f"its {name} vectors are not finite")
    count, other = len(vectors[CLIP_L]), len(vectors[CLIP_G])
    if count != other or not 1 <= count <= MAX_VECTORS:
        raise ValueError(
            f"it has {count} clip_l and {other} clip_g vectors; both must have as many, 1 to {MAX_VECTORS}"
        )
    return Embedding(vectors)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """A single vector, (width,), as (1, width)."""
    return tensor[None] if tensor.ndim == 1 else tensor


@contextmanager
def placed(encoder: Any, vectors: Sequence[tuple[int, torch.Tensor]]) -> Iterator[None]:
    """Put vectors, each (width,), in place of the token embeddings at these positions, inside the block."""
    if not vectors:
        yield
        return

    def replace(_module: torch.nn.Module, _args: object, embedded: torch.Tensor) -> torch.Tensor:
        embedded = embedded.clone()
        for position, vector in vectors:
            embedded[:, position] = vector.to(embedded)
        return embedded

    handle = encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _refused(message: str) -> RequestRejected:
    return RequestRejected(ErrorCode.INVALID_REQUEST, message)
