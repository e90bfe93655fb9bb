"""The UNet's weights with one set of LoRAs merged in, exchanged between sets.

Merged weights are always computed from the model's own, `W + Σ w · Δ(W)` in float32 and in the order of the LoRAs'
names, and rounded once. Nothing is ever subtracted, so that a set has the same bits whatever was merged before.

With a second copy (`second_copy`), the model's own weights are never written: merged ones have tensors of their own,
and the layers that a set changes are pointed at these. Rows without LoRAs can be stepped while a set is being merged,
and going back costs nothing. A layer's second tensor is made when a LoRA changes the layer first, and then kept.
Which of the two a layer computes with follows from the set alone: kernels may depend on where a tensor lies.

A second copy that is `reserve`d has a second tensor for every layer from the start, and all of them are used with any
set, so that a captured graph can keep their addresses. It is given up for good where memory is short, since the graphs
would keep addresses of what is freed.

Without, the model's own weights of the layers that LoRAs have changed are kept in host memory, pinned for CUDA, and the
layers' tensors are overwritten and restored. That is for cards without room; an allocation that fails while merging
with a second copy leads there too. The bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
import torch

from worker.engine.lora.change import SUPPORTED, Change
from worker.engine.lora.slots import BIAS, WEIGHT, Parts, Slot, merged

# (name, fingerprint, weight) of LoRAs that change the UNet, by name.
LoraSet = tuple[tuple[str, str, float], ...]
# The changes of a set: (module, change, weight), by the LoRAs' names.
ChangesOf = Callable[[LoraSet], Iterable[tuple[Any, Change, float]]]
HostOf = Callable[[torch.nn.Parameter], torch.Tensor | None]

# Weights between two looks at the time: a layer of SDXL, or a few small ones.
_SLICE_ELEMENTS = 4 << 20

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Work:
    """What is left to do for `target`."""

    target: LoraSet | None
    changed: list[Slot]
    slots: list[tuple[Slot, Parts]]


@dataclass(slots=True)
class Exchange:
    """The weights of one model, used by one thread only. No set is the base's weights, written None.

    Args:
        changes_of: gives the changes of a set whose LoRAs are in use.
        second_copy: keep merged weights beside the model's own; else overwrite and restore these.
        host_of: returns a copy of a parameter's own weights in host memory, where one is kept anyway.
    """

    changes_of: ChangesOf
    second_copy: bool = True
    host_of: HostOf = lambda _: None
    merges: int = 0
    _copies: bool = field(init=False)
    _slots: dict[tuple[Any, str], Slot] = field(default_factory=dict)
    # The set that is merged, whether all of its tensors are written, and those that it changes.
    _holds: LoraSet | None = None
    _whole: bool = True
    _changed: list[Slot] = field(default_factory=list)
    # Those that always have a second tensor.
    _reserved: list[Slot] = field(default_factory=list)
    # Those that are pointed at their second tensor, and those whose only or reserved tensor holds no longer the model's
    # own values.
    _pointed: list[Slot] = field(default_factory=list)
    _overwritten: set[Slot] = field(default_factory=set)
    _used: LoraSet | None = None
    _work: _Work | None = None

    def __post_init__(self) -> None:
        self._copies = self.second_copy

    @property
    def holds(self) -> LoraSet | None:
        """The set that is merged; None if there is none, or one is half merged."""
        return self._holds if self._whole else None

    @property
    def in_use(self) -> LoraSet | None:
        """The set that the model computes with."""
        return self._used

    @property
    def has_second_copy(self) -> bool:
        """Whether merged weights lie beside the model's own, so that a set can be merged while others are stepped."""
        return self._copies

    @property
    def bytes_held(self) -> int:
        """What the second tensors take on the device, in bytes."""
        return sum(slot.merged.nbytes for slot in self._slots.values() if slot.merged is not None)

    def reserve(self, modules: Iterable[Any]) -> bool:
        """Make the second tensors of all that LoRAs may change in `modules`; they stay where they are from then on.

        Where there is too little memory, there is no second copy from then on.

        Returns:
            Whether there is one.
        """
        if not self._copies:
            return False
        self._forget()
        try:
            with torch.inference_mode(False), torch.no_grad():
                for module in modules:
                    for name in (WEIGHT, BIAS) if isinstance(module, SUPPORTED) else ():
                        if getattr(module, name, None) is not None:
                            slot = self._slot(module, name)
                            slot.merged = slot.here.clone()
                            self._reserved.append(slot)
        except torch.OutOfMemoryError:
            self._release_reserved()
        return self._copies

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Compute with a reserved copy that holds the model's own weights times `factor`: another model, for checks."""
        assert self._reserved, "there is no reserved copy"
        self._forget()
        try:
            self._fill_reserved(factor)
            self._point(self._reserved)
            yield
        finally:
            self._forget()
            self._fill_reserved(1.0)

    def ready(self, wanted: Hashable) -> bool:
        """Whether `use` can be called for a set."""
        if wanted is None and self._copies:
            return True
        return self._whole and self._holds == wanted

    def use(self, wanted: LoraSet | None) -> None:
        """Let the model compute with a set that is ready; costs nothing where it does already."""
        assert self.ready(wanted), f"{wanted} is not merged"
        if self._used != wanted:
            self._point([] if wanted is None else list(dict.fromkeys(self._reserved + self._changed)))
            self._used = wanted

    def bring(self, wanted: LoraSet | None) -> None:
        """Merge a set whole, and use it.

        Raises:
            torch.OutOfMemoryError: there is too little memory even without a second copy; the call can be repeated.
        """
        while not self.advance(wanted, lambda: True):
            pass
        self.use(wanted)

    def advance(self, wanted: LoraSet | None, go_on: Callable[[], bool] | None) -> bool:
        """Merge on for a set, at least a few layers and for as long as `go_on`; return whether it is ready.

        Whatever else was merged or half merged is given up.

        Args:
            go_on: asked when the device has finished the layers so far; None: a few layers, without waiting for them.

        Raises:
            torch.OutOfMemoryError: as raised by `bring`.
        """
        if self.ready(wanted):
            return True
        try:
            return self._advance(wanted, go_on)
        except torch.OutOfMemoryError:
            if not self._copies:
                raise
        # Not above: while it is handled, the error keeps alive the tensors of every frame that it went through.
        _log.warning("lora_second_copy_given_up", hint="the model's weights are restored from host memory from now on")
        self.give_room()
        return False

    def give_room(self) -> None:
        """Free the second copy; the model's own weights of layers that LoRAs change go to host memory beside."""
        if not self._copies:
            return
        self._forget()
        if self._reserved:
            self._release_reserved()
            return
        self._copies = False
        for slot in self._slots.values():
            slot.merged = None
            if slot.own is not None:
                slot.own = self._to_host(slot)

    def take_room(self) -> None:
        """Undo `give_room`, for when the device is idle."""
        if self._copies == self.second_copy:
            return
        self.bring(None)
        for slot in self._slots.values():
            if slot.own is not None:
                slot.own = slot.here
        self._copies = True

    def on_moved(self) -> None:
        """The model's own weights have been put onto the device anew (`offload.py`), so that nothing is merged."""
        assert not self._copies, "weights that are moved have no second copy"
        self._overwritten.clear()
        self._forget()

    def _advance(self, wanted: LoraSet | None, go_on: Callable[[], bool] | None) -> bool:
        if self._work is None or self._work.target != wanted:
            self._begin(wanted)
        work, done = self._work, 0
        assert work is not None
        while work.slots:
            slot, parts = work.slots[-1]
            done += self._write(slot, parts)
            work.slots.pop()
            if work.slots and done >= _SLICE_ELEMENTS:
                if go_on is None:
                    return False
                done = 0
                _wait_for(slot.module.weight)
                if not go_on():
                    return False
        self._holds, self._changed, self._whole, self._work = wanted, work.changed, True, None
        if wanted is not None:
            self.merges += 1
        return True

    def _begin(self, wanted: LoraSet | None) -> None:
        """Plan to write the tensors that `wanted` changes, and to restore those that hold another set's values."""
        parts: dict[Slot, Parts] = {}
        for module, change, weight in () if wanted is None else self.changes_of(wanted):
            for name, has in ((WEIGHT, change.kind is not None), (BIAS, change.bias is not None)):
                if has:
                    parts.setdefault(self._slot(module, name), []).append((change, weight))
        # What is in use may be about to be written.
        self._forget()
        self._whole = False
        restored: list[tuple[Slot, Parts]] = [(slot, []) for slot in self._overwritten if slot not in parts]
        self._work = _Work(wanted, list(parts), restored + list(parts.items()))

    def _slot(self, module: Any, name: str) -> Slot:
        slot = self._slots.get((module, name))
        if slot is None:
            parameter = getattr(module, name)
            slot = Slot(module, name, None if parameter is None else parameter.data)
            if parameter is not None and not self._copies:
                slot.own = self._to_host(slot)
            self._slots[module, name] = slot
        return slot

    def _to_host(self, slot: Slot) -> torch.Tensor:
        """Return the model's own tensor, which the module computes with now, in host memory."""
        kept = self.host_of(getattr(slot.module, slot.name))
        if kept is not None:
            return kept
        with torch.inference_mode(False):
            host = torch.empty_like(slot.here, device="cpu", pin_memory=slot.here.is_cuda)
            return host.copy_(slot.here)

    def _write(self, slot: Slot, parts: Parts) -> int:
        """Write the merged tensor of a slot, or without parts the model's own; return its size in elements."""
        # Tensors that are created in inference mode could not be changed outside of it later.
        with torch.inference_mode(False), torch.no_grad():
            if slot.own is None:
                weight = slot.module.weight
                none = torch.zeros(weight.shape[0], device=weight.device)
                slot.merged = merged(none, slot, parts).to(weight.dtype)
                return none.numel()
            if self._copies:
                if slot.merged is None:
                    slot.merged = torch.empty_like(slot.own)
                out = slot.merged
            else:
                out = slot.here
            if self._reserved or not self._copies:
                self._overwritten.add(slot)
            out.copy_(merged(slot.own.to(out.device), slot, parts) if parts else slot.own)
            if not parts:
                self._overwritten.discard(slot)
            return out.numel()

    def _fill_reserved(self, factor: float) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for slot in self._reserved:
                assert slot.own is not None
                assert slot.merged is not None
                torch.mul(slot.own, factor, out=slot.merged)
        self._overwritten.clear()

    def _release_reserved(self) -> None:
        """Free the second copy for good. The model's own weights were never written, so that nothing is restored."""
        self._forget()
        self._slots.clear()
        self._reserved.clear()
        self._overwritten.clear()
        self._changed, self.second_copy, self._copies = [], False, False

    def _point(self, changed: list[Slot]) -> None:
        """Point these at their second tensors, and all others at the model's own."""
        with torch.inference_mode(False):
            for slot in self._pointed:
                slot.point(slot.own)
            self._pointed = [slot for slot in changed if slot.own is None or self._copies]
            for slot in self._pointed:
                slot.point(slot.merged)

    def _forget(self) -> None:
        self._point([])
        self._used, self._holds, self._whole, self._work = None, None, True, None


def _wait_for(tensor: torch.Tensor) -> None:
    """The host runs ahead of a CUDA device, and would launch more than there is time for."""
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
