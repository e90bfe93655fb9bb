"""Cache of loaded LoRAs, and their use with a weight per row, so that rows with different LoRAs share one UNet call.

LoRAs are made for the base model. They are applied to the base's UNet and text encoders, never to the refiner.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch

from worker.engine.embeddings import Embedding, embedding_widths
from worker.engine.lora.batch import LoraBatch, Weights, inner_scale, placed, weigh
from worker.engine.lora.change import Change
from worker.engine.lora.exchange import Exchange, HostOf, LoraSet
from worker.engine.lora.file import LoraFile, LoraTarget, bytes_of
from worker.engine.lora.location import Stamp
from worker.engine.lora.names import COMPONENTS, TEXT_ENCODERS, UNET, ModuleNames
from worker.engine.lora.reader import Found, LoraReader
from worker.errors import ErrorCode, RequestRejected
from worker.telemetry import metrics

Loras = Sequence[tuple[str, float]]

# Some ten LoRAs of the largest usual size.
LORA_CACHE_BYTES = 2 << 30

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of a file that fits the model, also when its LoRA is not loaded any more."""

    stamp: Stamp
    fingerprint: str
    embeddings: Mapping[str, Embedding]


@dataclass(slots=True, eq=False)
class _Cached:
    """A LoRA in the cache; `users` counts the jobs and rows that have acquired it.

    `placed` holds the changes of the components that hooks apply, as they need them, and `ready` those that are not on
    the device yet. What is merged is always computed from the file's own tensors.
    """

    file: LoraFile
    stamp: Stamp
    ready: dict[str, dict[str, Change]]
    users: int = 0
    placed: dict[str, dict[str, Change]] = field(default_factory=dict)
    size: int = 0

    def measure(self) -> None:
        """Set `size`, in bytes."""
        self.size = sum(map(bytes_of, (self.file.changes, self.ready, self.placed)))


class LoraCache:
    """The LoRAs of one base pipeline: a bounded cache, and their use in a batch. It must be used by one thread only.

    Args:
        pipeline: a `StableDiffusionXLPipeline`; hooks are installed on its modules while LoRAs are in use.
        folder: the folder of `NAME.safetensors` files; None means that every LoRA is rejected.
        capacity: number of LoRAs kept loaded, None for any; like `max_bytes`, it is exceeded only while jobs in the
            engine need more at the same time.
        max_bytes: what the tensors of the loaded LoRAs may take, in bytes.
        prepare: the components whose changes are made ready for hooks as soon as a file is read.
        second_copy: merge into a second copy of the UNet's weights (`exchange.py`).
        host_of: see `Exchange`.
    """

    def __init__(
        self,
        pipeline: Any,
        folder: Path | None,
        capacity: int | None = None,
        *,
        max_bytes: int = LORA_CACHE_BYTES,
        prepare: Sequence[str] = TEXT_ENCODERS,
        second_copy: bool = True,
        host_of: HostOf = lambda _: None,
    ) -> None:
        self._pipeline = pipeline
        self._folder = folder
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._prepare = prepare
        self.exchange = Exchange(self._changes_of, second_copy, host_of)
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._fitting: dict[str, _Known] = {}
        self._target = LoraTarget(ModuleNames(pipeline), pipeline.unet.config, embedding_widths(pipeline))
        self._attached: LoraBatch | None = None
        self._warned = False

    @property
    def loaded(self) -> int:
        """The number of LoRAs in the cache."""
        return len(self._cache)

    @property
    def bytes_held(self) -> int:
        """What the tensors of the loaded LoRAs take, in bytes."""
        return sum(adapter.size for adapter in self._cache.values())

    def reader(self) -> LoraReader:
        """Return what reads files for this cache; any thread may use it."""
        prepare = {component: getattr(self._pipeline, component).dtype for component in self._prepare}
        return LoraReader(self._folder, self._target, prepare)

    def known_stamp(self, name: str) -> Stamp | None:
        """Return the stamp of the file that the cached LoRA was read from. Any thread may call this."""
        adapter = self._cache.get(name)
        return None if adapter is None else adapter.stamp

    def offer(self, found: Found) -> None:
        """Take what a reader has read; a LoRA that is in use stays as it is."""
        if found.file is not None and self._used(found.name) is None:
            self._keep(found, found.file)

    def pin_found(self, found: Sequence[Found]) -> bool:
        """Take what a reader has found for a job, and keep it until `release`; nothing is placed on the device.

        Returns:
            False where a LoRA that was in the cache then is not any more; nothing is pinned then.
        """
        with ExitStack() as undo:
            for each in found:
                self.offer(each)
                adapter = self._cache.get(each.name)
                if adapter is None:
                    return False
                adapter.users += 1
                undo.callback(self.release, [(each.name, 0.0)])
                self._cache.move_to_end(each.name)
            undo.pop_all()
        return True

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

    def acquire(self, loras: Loras, components: Sequence[str] = COMPONENTS) -> None:
        """Load LoRAs and keep them, unchanged even if their files change, until `release`.

        Args:
            components: those that hooks apply them to; their changes are placed on the device.

        Raises:
            RequestRejected: as raised by `check`.
            torch.OutOfMemoryError: a LoRA does not fit; none of them is acquired then.
        """
        with ExitStack() as undo:
            for name, _ in loras:
                adapter = self._get(name)
                adapter.users += 1
                undo.callback(self.release, [(name, 0.0)])
                self._place(adapter, components)
            undo.pop_all()

    def release(self, loras: Loras) -> None:
        """Release LoRAs that were acquired."""
        for name, _ in loras:
            adapter = self._cache[name]
            adapter.users -= 1
            assert adapter.users >= 0, f"LoRA {name} was released more often than acquired"
        self._shrink()

    def free(self) -> None:
        """Unload every LoRA that no row has acquired."""
        self._attach(None)
        self._shrink(everything=True)

    def merged_set(self, loras: Loras) -> LoraSet | None:
        """Return what is to be merged into the UNet for acquired LoRAs; None if none of them changes it."""
        found = tuple(
            (name, self._cache[name].file.fingerprint, weight)
            for name, weight in sorted(dict(_effective(loras)).items())
            if self._cache[name].file.changes[UNET]
        )
        return found or None

    def reserve_second_copy(self) -> bool:
        """Make the whole second copy of the UNet's weights now (`Exchange.reserve`); False where there is none."""
        return self.exchange.reserve(self._target.names.modules[UNET].values())

    def add_biases(self, loras: Loras) -> bool:
        """Whether merging LoRAs, which must be in the cache, gives a layer of the UNet a bias that it does not have."""
        modules = self._target.names.modules[UNET]
        return any(
            change.bias is not None and getattr(modules[module], "bias", None) is None
            for name, _ in _effective(loras)
            for module, change in self._cache[name].file.changes[UNET].items()
        )

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
        return self.reader().locate(name)

    def _load(self, name: str, path: Path, stamp: Stamp) -> _Cached:
        self._cache.pop(name, None)
        self._fitting.pop(name, None)
        found = self.reader().read(name, path, stamp)
        assert found.file is not None
        return self._keep(found, found.file)

    def _keep(self, found: Found, file: LoraFile) -> _Cached:
        metrics.LORA_LOADS.inc()
        self._cache.pop(found.name, None)
        self._fitting[found.name] = _Known(found.stamp, file.fingerprint, file.embeddings)
        adapter = self._cache[found.name] = _Cached(file, found.stamp, dict(found.ready))
        adapter.measure()
        self._shrink(keep=found.name)
        return adapter

    def _shrink(self, keep: str | None = None, *, everything: bool = False) -> None:
        """Unload unused LoRAs, least recently used first, until the bounds hold; or all of them."""
        for name in [name for name, adapter in self._cache.items() if not adapter.users and name != keep]:
            if not everything and not self._is_over():
                break
            del self._cache[name]
        over = self._is_over()
        if over and not self._warned:
            _log.warning("loras_over_capacity", loaded=len(self._cache), bytes=self.bytes_held)
        self._warned = over

    def _is_over(self) -> bool:
        many = self._capacity is not None and len(self._cache) > self._capacity
        return many or self.bytes_held > self._max_bytes

    def _place(self, adapter: _Cached, components: Sequence[str]) -> None:
        for component in components:
            if component not in adapter.placed:
                model = getattr(self._pipeline, component)
                changes = adapter.ready.get(component, adapter.file.changes[component]).items()
                adapter.placed[component] = {
                    name: placed(change, model.device, model.dtype) for name, change in changes
                }
                adapter.ready.pop(component, None)
                adapter.measure()

    def _changes_of(self, wanted: LoraSet) -> Iterator[tuple[Any, Change, float]]:
        """Yield the changes of a set's LoRAs, which must be in use, in the order of their names."""
        modules = self._target.names.modules[UNET]
        for name, fingerprint, weight in wanted:
            adapter = self._used(name)
            assert adapter is not None, f"LoRA {name} is merged but not acquired"
            assert adapter.file.fingerprint == fingerprint, f"LoRA {name} is not the one that was planned"
            for module, change in adapter.file.changes[UNET].items():
                yield modules[module], change, weight

    def _mix(self, component: str, weights: Mapping[str, list[float]]) -> LoraBatch | None:
        modules, model = self._target.names.modules[component], getattr(self._pipeline, component)
        parts: dict[torch.nn.Module, list[tuple[Change, Weights]]] = {}
        for name in sorted(weights):
            adapter = self._used(name)
            assert adapter is not None, f"LoRA {name} is used but not acquired"
            scaled: dict[float, Weights] = {}
            for module, change in adapter.placed[component].items():
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
