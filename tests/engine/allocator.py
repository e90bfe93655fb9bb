"""A device that runs out of memory when a test asks for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from typing import Any

import diffusers
import pytest
import torch

from worker.engine import samplers
from worker.engine.pipeline import SdxlModel

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


class FakeAllocator:
    """Counts every call that allocates on a device, and lets the chosen ones fail.

    Models, text encoders, decodes, steps of diffusers' schedulers, LoRAs on their way to the device, noise, and every
    `cat` and `stack` of the engine's own. With `late` a call fails after it has done its work: the state that it left
    behind must be undone.
    """

    def __init__(self, model: SdxlModel, monkeypatch: pytest.MonkeyPatch, schedulers: Container[str]) -> None:
        self.calls = 0
        self.fail_at: Container[int] = ()
        self.late = False
        self.failed: list[str] = []
        self._patch = monkeypatch
        for stage, pipe in (("base", model.base), ("refiner", model.refiner)):
            self._wrap(pipe.unet, "forward", f"{stage} unet")
            self._wrap(pipe.text_encoder_2, "forward", f"{stage} text encoder 2")
        self._wrap(model.base.text_encoder, "forward", "text encoder")
        self._wrap(model.base.vae, "decode", "vae")
        for name in vars(diffusers.schedulers):
            if name in schedulers:
                self._wrap(getattr(diffusers, name), "step", name)
        self._wrap(sys.modules["worker.engine.lora.cache"], "placed", "lora")
        self._wrap(sys.modules["worker.engine.pipeline"], "randn_tensor", "noise")
        for name in ("cat", "stack"):
            self._wrap(torch, name, f"torch.{name}", of_engine_only=True)

    def restart(self, fail_at: Container[int], *, late: bool = False) -> None:
        self.calls, self.fail_at, self.late, self.failed = 0, fail_at, late, []
        # Schedules that are known already would leave calls out.
        samplers._tabled.clear()

    def _wrap(self, owner: Any, name: str, label: str, *, of_engine_only: bool = False) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def allocate(*args: Any, **kwargs: Any) -> Any:
            if of_engine_only and not sys._getframe(1).f_globals["__name__"].startswith("worker.engine"):
                return original(*args, **kwargs)
            call, self.calls = self.calls, self.calls + 1
            fails = call in self.fail_at
            if fails and not self.late:
                self._fail(label)
            result = original(*args, **kwargs)
            if fails:
                self._fail(label)
            return result

        allocate.__wrapped__ = original  # type: ignore[attr-defined] # the engine reads a step's signature
        self._patch.setattr(owner, name, allocate)

    def _fail(self, label: str) -> None:
        self.failed.append(label)
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)
