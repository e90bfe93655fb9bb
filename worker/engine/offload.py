"""Keep only one of the base's UNet and the refiner on the device at a time, for cards with little memory.

A change of stage copies the weights of one of them over the bus (5 GB in half precision: about half a second). The
step scheduler decides which stage comes next. A refined picture costs two changes, one to the refiner and one back;
refined pictures in several lanes may alternate between stages, which costs throughput.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from worker.engine.cost import Stage

Held = list[tuple[torch.Tensor, torch.Tensor]]


class Offload:
    """Keeps the modules of one stage on the device.

    All weights also stay in host memory, so that removing a stage from the device copies nothing.
    """

    def __init__(self, modules: Mapping[Stage, Sequence[torch.nn.Module]], device: torch.device) -> None:
        self._device = device
        self._held = {stage: [pair for module in some for pair in _hold(module)] for stage, some in modules.items()}
        self._there: Stage | None = None
        for held in self._held.values():
            _leave(held)

    def host_of(self, parameter: torch.nn.Parameter) -> torch.Tensor | None:
        """Return a parameter's weights in host memory; None where it is not one of a stage's."""
        held = (pair for stage in self._held.values() for pair in stage)
        return next((weights for tensor, weights in held if tensor is parameter), None)

    def bring(self, stage: Stage) -> bool:
        """Move this stage to the device, and the other stage off it; False if the stage is already there.

        Raises:
            torch.OutOfMemoryError: the stage does not fit. No stage is on the device then, and the call can be retried.
        """
        if stage is self._there:
            return False
        if self._there is not None:
            _leave(self._held[self._there])
            self._there = None
        try:
            _enter(self._held[stage], self._device)
        except BaseException:
            _leave(self._held[stage])
            raise
        self._there = stage
        return True


def _hold(module: torch.nn.Module) -> Held:
    return [(tensor, tensor.data.to("cpu")) for tensor in (*module.parameters(), *module.buffers())]


def _enter(held: Held, device: torch.device) -> None:
    # Tensors that are created in inference mode could not be changed outside of it later.
    with torch.inference_mode(False):
        for tensor, weights in held:
            tensor.data = weights.to(device, copy=True)


def _leave(held: Held) -> None:
    with torch.inference_mode(False):
        for tensor, weights in held:
            tensor.data = weights
