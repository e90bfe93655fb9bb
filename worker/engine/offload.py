"""For small cards: the base's UNet and the refiner take turns on the device.

A change of stage copies the weights of one of them over the bus (5 GB in half precision: about half a second). Which
stage comes next is the step scheduler's decision, so the cost is one change when a refined picture is handed over and
one back, and more where classes alternate between stages: refined pictures of several classes cost throughput here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from worker.engine.cost import Stage

Held = list[tuple[torch.Tensor, torch.Tensor]]


class Offload:
    """Keeps the modules of one stage on the device. All weights stay in host memory too: leaving copies nothing."""

    def __init__(self, modules: Mapping[Stage, Sequence[torch.nn.Module]], device: torch.device) -> None:
        self._device = device
        self._held = {stage: [pair for module in some for pair in _hold(module)] for stage, some in modules.items()}
        self._there: Stage | None = None
        for held in self._held.values():
            _leave(held)

    def bring(self, stage: Stage) -> None:
        """Have this stage on the device and no other; at once where it is there already.

        Raises:
            torch.OutOfMemoryError: then no stage is there, and the call can be made again.
        """
        if stage is self._there:
            return
        if self._there is not None:
            _leave(self._held[self._there])
            self._there = None
        try:
            _enter(self._held[stage], self._device)
        except BaseException:
            _leave(self._held[stage])
            raise
        self._there = stage


def _hold(module: torch.nn.Module) -> Held:
    return [(tensor, tensor.data.to("cpu")) for tensor in (*module.parameters(), *module.buffers())]


def _enter(held: Held, device: torch.device) -> None:
    # Weights that are made in inference mode could never be changed outside of it.
    with torch.inference_mode(False):
        for tensor, weights in held:
            tensor.data = weights.to(device, copy=True)


def _leave(held: Held) -> None:
    with torch.inference_mode(False):
        for tensor, weights in held:
            tensor.data = weights
