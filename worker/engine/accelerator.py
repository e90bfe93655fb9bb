"""What only CUDA has, behind one class: graphs, streams, events and pinned memory.

`Accelerator` is the twin for every other device: work is done when a call returns, and a graph is a plain call. The
engine knows this class only, so that the tests run the same code. `CudaAccelerator` has not been run on a card yet.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
# Its constructors are untyped.
_cuda: Any = torch.cuda
Tensors = tuple[torch.Tensor, ...]

# Before a graph is captured, its kernels must have been loaded and its workspaces allocated (PyTorch's notes on CUDA).
_CALLS_BEFORE_CAPTURE = 3


@dataclass(slots=True)
class Pending(Generic[T]):
    """Work that was given to a device; `value` must not be read on the host before it is done."""

    value: T

    def is_done(self) -> bool:
        """Whether the device has finished it; never waits."""
        return True

    def seconds(self, waited: float) -> float:
        """Return how long the device took, once it is done; `waited` is what the host saw."""
        return waited

    def join(self) -> None:
        """Let the steps that are launched from now on come after it; the host does not wait."""

    def wait(self) -> None:
        """Wait on the host until it is done."""


class Accelerator:
    """A device that has finished a piece of work when the call returns."""

    # Whether work given to `beside` runs while a step does.
    overlaps = False

    def beside(self, work: Callable[[], T], stream: str) -> Pending[T]:
        """Run `work` beside the steps that are launched after it; it sees all that earlier ones have written.

        Args:
            stream: work of one name is done in its order.
        """
        del stream
        return Pending(work())

    def join(self, stream: str) -> None:
        """Let all that is launched from now on come after the work of this name; the host does not wait."""

    def step(self, launch: Callable[[], None], key: Hashable, clock: Callable[[], float]) -> float:
        """Launch one step and return the seconds of a step of this key, which was this one or the one before it.

        At most one step is launched while another one runs: more would keep an urgent job waiting behind them.

        Args:
            key: steps of equal keys take equally long.
        """
        del key
        before = clock()
        launch()
        return clock() - before

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Begin to copy to the host; the result may be read once the work is done that this is a part of."""
        return tensor.cpu()

    def graph(self, call: Callable[[], Tensors]) -> Callable[[], Tensors]:
        """Return what does the same as `call`, whose inputs stay where they are, in as few launches as possible."""
        return call

    def settle(self) -> None:
        """Wait until the device is idle."""


@dataclass(slots=True)
class _CudaPending(Pending[T]):
    begin: Any
    end: Any
    steps: Any

    def is_done(self) -> bool:
        return bool(self.end.query())

    def seconds(self, waited: float) -> float:
        del waited
        return float(self.begin.elapsed_time(self.end)) / 1000

    def join(self) -> None:
        self.steps.wait_event(self.end)

    def wait(self) -> None:
        self.end.synchronize()


@dataclass(frozen=True, slots=True)
class _Running:
    key: Hashable
    begin: Any
    end: Any


class CudaAccelerator(Accelerator):
    """A CUDA device: steps on one stream, each kind of work beside them on another.

    Args:
        device: the CUDA device, which must be the current one of the engine's thread.
    """

    overlaps = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sides: dict[str, Any] = {}
        self._pool: Any = None
        self._running: _Running | None = None

    def beside(self, work: Callable[[], T], stream: str) -> Pending[T]:
        """Run `work` on a stream of that name, after the steps that were launched before it.

        That order also makes it safe to free what one stream has allocated and the other one has read: whatever takes
        its place is written after it.
        """
        steps = _cuda.current_stream(self._device)
        side = self._sides.get(stream) or self._sides.setdefault(stream, _cuda.Stream(self._device))
        side.wait_stream(steps)
        with _cuda.stream(side):
            begin, end = _cuda.Event(enable_timing=True), _cuda.Event(enable_timing=True)
            begin.record(side)
            value = work()
            end.record(side)
        return _CudaPending(value, begin, end, steps)

    def join(self, stream: str) -> None:
        """Let the stream of the steps wait for another one."""
        if stream in self._sides:
            _cuda.current_stream(self._device).wait_stream(self._sides[stream])

    def step(self, launch: Callable[[], None], key: Hashable, clock: Callable[[], float]) -> float:
        """Launch a step behind a running one of the same key and wait for that one; otherwise wait for this one."""
        del clock
        before = self._running
        if before is not None and before.key != key:
            before.end.synchronize()
        stream = _cuda.current_stream(self._device)
        own = _Running(key, _cuda.Event(enable_timing=True), _cuda.Event(enable_timing=True))
        follows = before is not None and before.key == key and not before.end.query()
        own.begin.record(stream)
        launch()
        own.end.record(stream)
        self._running = own
        ended = before if follows and before is not None else own
        ended.end.synchronize()
        return float(ended.begin.elapsed_time(ended.end)) / 1000

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy to pinned memory without waiting."""
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        return host

    def graph(self, call: Callable[[], Tensors]) -> Callable[[], Tensors]:
        """Capture `call` into a CUDA graph; all graphs share their memory, since they run one after another."""
        with _cuda.device(self._device):
            return self._captured(call)

    def _captured(self, call: Callable[[], Tensors]) -> Callable[[], Tensors]:
        stream = _cuda.Stream(self._device)
        stream.wait_stream(_cuda.current_stream(self._device))
        with _cuda.stream(stream):
            for _ in range(_CALLS_BEFORE_CAPTURE):
                call()
        _cuda.current_stream(self._device).wait_stream(stream)
        if self._pool is None:
            self._pool = _cuda.graph_pool_handle()
        graph = _cuda.CUDAGraph()
        with _cuda.graph(graph, pool=self._pool):
            outputs = call()

        def replay() -> Tensors:
            graph.replay()
            # The next replay of any graph overwrites them.
            return tuple(output.clone() for output in outputs)

        return replay

    def settle(self) -> None:
        """Wait until the device is idle."""
        _cuda.synchronize(self._device)
        self._running = None


def accelerator_of(device: torch.device) -> Accelerator:
    """Return the accelerator of a device."""
    return CudaAccelerator(device) if device.type == "cuda" else Accelerator()
