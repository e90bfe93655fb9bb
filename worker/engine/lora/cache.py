"""Cache of loaded LoRAs, and their use with a weight per row, so that rows with different LoRAs share one UNet call.

LoRAs are made for the base model. They are applied to the base's UNet and text encoders, never to the refiner.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
import torch

from worker.engine.embeddings import Embedding, embedding_widths
from worker.engine.lora.batch import LoraBatch, Weights, inner_scale, placed, weigh
from worker.engine.lora.change import Change
from worker.engine.lora.file import LoraFile, LoraTarget, read
from worker.engine.lora.location import Stamp, locate
from worker.engine.lora.names import COMPONENTS, TEXT_ENCODERS, UNET, ModuleNames
from worker.engine.lora.unfit import Unfit
from worker.errors import ErrorCode, RequestRejected
from worker.telemetry import metrics

Loras = Sequence[tuple[str, float]]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of a file that fits the model, also when its LoRA is not loaded any more."""

    stamp: Stamp
    fingerprint: str
    embeddings: Mapping[str, Embedding]


@dataclass(slots=True, eq=False)
class _Cached:
    """A LoRA in the cache; `users` counts the rows that have acquired it."""

    file: LoraFile
    stamp: Stamp
    users: int = 0
    placed: bool = False


class LoraCache:
    """The LoRAs of one base pipeline: a bounded cache, and their use in a batch. It must be used by one thread only.

    Args:
        pipeline: a `StableDiffusionXLPipeline`; hooks are installed on its modules while LoRAs are in use.
        folder: the folder of `NAME.safetensors` files; None means that every LoRA is rejected.
        capacity: number of LoRAs kept loaded; it is exceeded only while started rows need more at the same time.
    """

    def __init__(self, pipeline: Any, folder: Path | None, capacity: int) -> None:
        self._pipeline = pipeline
        self._folder = folder
        self._capacity = capacity
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._fitting: dict[str, _Known] = {}
        self._target = LoraTarget(ModuleNames(pipeline), pipeline.unet.config, embedding_widths(pipeline))
        self._attached: LoraBatch | None = None
        self._warned = False

    @property
    def loaded(self) -> int:
        """The number of LoRAs in the cache."""
        return len(self._cache)

    def check(self, loras: Loras) -> None:
        """Check that the LoRAs exist and fit the model; a file that was not read yet is read into host memory.

        Raises:
            RequestRejected: `unknown_lora`, with the reason.
        """
        for name, _ in loras:
            if self._used(name) is None:
                path, stamp = self._locate(name)
                known = self._fitting.get(name)
                if known is None or known.stamp != stamp:
                    self._load(name, path, stamp)

    def acquire(self, loras: Loras) -> None:
        """Load LoRAs to the device, and keep them there, unchanged even if their files change, until `release`.

        Raises:
            RequestRejected: as raised by `check`.
            torch.OutOfMemoryError: a LoRA does not fit; none of them is acquired then.
        """
        with ExitStack() as undo:
            for name, _ in loras:
                adapter = self._get(name)
                adapter.users += 1
                undo.callback(self.release, [(name, 0.0)])
                self._place(adapter)
            undo.pop_all()

    def release(self, loras: Loras) -> None:
        """Release LoRAs that were acquired."""
        for name, _ in loras:
            adapter = self._cache[name]
            adapter.users -= 1
            assert adapter.users >= 0, f"LoRA {name} was released more often than acquired"
        self._shrink(self._capacity)

    def free(self) -> None:
        """Unload every LoRA that no row has acquired."""
        self._attach(None)
        self._shrink(0)

    def mix(self, per_sample: Sequence[Loras]) -> LoraBatch | None:
        """Build the mix that `batch` applies to a UNet call, or None if no sample has a LoRA.

        Args:
            per_sample: (name, weight) pairs of acquired LoRAs for each sample of the UNet's batch, padding included.
        """
        weights: dict[str, list[float]] = {}
        for index, loras in enumerate(per_sample):
            for name, weight in _effective(loras):
                weights.setdefault(name, [0.0] * len(per_sample))[index] = weight
        return self._mix(UNET, weights)

    @contextmanager
    def batch(self, mix: LoraBatch | None) -> Iterator[None]:
        """Apply `mix` to UNet calls inside the block; with None, no hook is installed."""
        if mix is not self._attached:
            self._attach(mix)
        if mix is None:
            yield
            return
        with mix.applied():
            yield

    @contextmanager
    def text(self, loras: Loras) -> Iterator[None]:
        """Apply acquired LoRAs to both text encoders inside the block, with the same weights for every prompt."""
        weights = {name: [weight] for name, weight in _effective(loras)}
        with ExitStack() as stack:
            for component in TEXT_ENCODERS:
                mix = self._mix(component, weights)
                if mix is not None:
                    stack.callback(mix.detach)
                    stack.enter_context(mix.applied())
            yield

    def text_key(self, loras: Loras) -> Hashable:
        """Return a key that is equal for LoRA sets with the same effect on the text encoders; () if there is none."""
        return tuple(
            (name, self._cache[name].file.fingerprint, weight)
            for name, weight in sorted(_effective(loras))
            if any(self._cache[name].file.changes[component] for component in TEXT_ENCODERS)
        )

    def fingerprints(self, loras: Loras) -> dict[str, str]:
        """Return 16 hex digits of the SHA-256 of each LoRA's file, by name; for a cached LoRA, of the file loaded then.

        Raises:
            RequestRejected: as raised by `check`.
        """
        for name, weight in loras:
            if name not in self._cache:
                self.check([(name, weight)])
        return {name: self._content(name).fingerprint for name, _ in loras}

    def embeddings(self, loras: Loras) -> dict[str, Embedding]:
        """Return the embeddings that checked LoRAs bring with them, by name in small letters; weight 0 brings none.

        Raises:
            RequestRejected: `invalid_request`, if two of them bring different ones with the same name.
        """
        brought: dict[str, tuple[str, Embedding]] = {}
        for lora, _ in _effective(loras):
            for name, embedding in self._content(lora).embeddings.items():
                other, known = brought.setdefault(name, (lora, embedding))
                if not known.equals(embedding):
                    raise RequestRejected(
                        ErrorCode.INVALID_REQUEST,
                        f"LoRAs {other} and {lora} bring different embeddings of the name {name}",
                    )
        return {name: embedding for name, (_, embedding) in brought.items()}

    def embeddings_key(self, loras: Loras) -> Hashable:
        """Return a key that is equal for checked LoRA sets that bring the same embeddings; () if they bring none."""
        return tuple(
            (name, content.fingerprint)
            for name, content in ((name, self._content(name)) for name, _ in sorted(_effective(loras)))
            if content.embeddings
        )

    def _content(self, name: str) -> LoraFile | _Known:
        adapter = self._cache.get(name)
        return self._fitting[name] if adapter is None else adapter.file

    def _used(self, name: str) -> _Cached | None:
        """Return the cached LoRA if rows have acquired it; it is kept even if its file has changed."""
        adapter = self._cache.get(name)
        return adapter if adapter is not None and adapter.users else None

    def _get(self, name: str) -> _Cached:
        adapter = self._used(name)
        if adapter is None:
            path, stamp = self._locate(name)
            adapter = self._cache.get(name)
            if adapter is None or adapter.stamp != stamp:
                adapter = self._load(name, path, stamp)
        self._cache.move_to_end(name)
        return adapter

    def _locate(self, name: str) -> tuple[Path, Stamp]:
        try:
            return locate(self._folder, name)
        except Unfit as reason:
            raise _rejected(name, reason) from None

    def _load(self, name: str, path: Path, stamp: Stamp) -> _Cached:
        self._cache.pop(name, None)
        self._fitting.pop(name, None)
        try:
            file = read(path, self._target)
        except Unfit as reason:
            raise _rejected(name, reason) from reason.__cause__
        metrics.LORA_LOADS.inc()
        self._fitting[name] = _Known(stamp, file.fingerprint, file.embeddings)
        adapter = self._cache[name] = _Cached(file, stamp)
        self._shrink(self._capacity, keep=name)
        return adapter

    def _shrink(self, size: int, keep: str | None = None) -> None:
        """Unload unused LoRAs, least recently used first, until at most `size` are left."""
        for name in [name for name, adapter in self._cache.items() if not adapter.users and name != keep]:
            if len(self._cache) <= size:
                break
            del self._cache[name]
        over = len(self._cache) > self._capacity
        if over and not self._warned:
            _log.warning("loras_over_capacity", loaded=len(self._cache), capacity=self._capacity)
        self._warned = over

    def _place(self, adapter: _Cached) -> None:
        if adapter.placed:
            return
        changes = {}
        for component in COMPONENTS:
            model = getattr(self._pipeline, component)
            changes[component] = {
                name: placed(change, model.device, model.dtype)
                for name, change in adapter.file.changes[component].items()
            }
        adapter.file, adapter.placed = replace(adapter.file, changes=changes), True

    def _mix(self, component: str, weights: Mapping[str, list[float]]) -> LoraBatch | None:
        modules, model = self._target.names.modules[component], getattr(self._pipeline, component)
        parts: dict[torch.nn.Module, list[tuple[Change, Weights]]] = {}
        for name in sorted(weights):
            adapter = self._used(name)
            assert adapter is not None, f"LoRA {name} is used but not acquired"
            scaled: dict[float, Weights] = {}
            for module, change in adapter.file.changes[component].items():
                scale = inner_scale(change)
                if scale not in scaled:
                    scaled[scale] = weigh(weights[name], scale, model.device, model.dtype)
                parts.setdefault(modules[module], []).append((change, scaled[scale]))
        return LoraBatch(parts) if parts else None

    def _attach(self, mix: LoraBatch | None) -> None:
        if self._attached is not None:
            self._attached.detach()
        self._attached = mix


def _effective(loras: Loras) -> list[tuple[str, float]]:
    return [(name, weight) for name, weight in loras if weight]


def _rejected(name: str, reason: Unfit) -> RequestRejected:
    return RequestRejected(ErrorCode.UNKNOWN_LORA, f"LoRA {name}: {reason}")
