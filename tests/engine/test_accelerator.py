"""Steps and the work beside them: on CUDA by a stand-in that records the calls, in the engine by one that is late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from devtools.bench.equality.draw import WatchedModel, load_toy
from tests.engine.scenario import make_job, stage
from worker.engine import accelerator as module
from worker.engine import decode_queue
from worker.engine.accelerator import Accelerator, CudaAccelerator, Pending, T, accelerator_of
from worker.engine.decode import is_converted
from worker.errors import ErrorCode


class Cuda:
    """The part of `torch.cuda` that the accelerator uses: a list of what it was asked, and events that tests end."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ended: set[int] = set()
        self.stream_now = "steps"
        self.events = 0

    def Stream(self, _device: object) -> CudaStream:
        return CudaStream(self, "side")

    def Event(self, enable_timing: bool) -> CudaEvent:
        assert enable_timing
        self.events += 1
        return CudaEvent(self, self.events)

    def current_stream(self, _device: object) -> CudaStream:
        return CudaStream(self, self.stream_now)

    @contextmanager
    def device(self, _device: object) -> Iterator[None]:
        yield

    def graph_pool_handle(self) -> str:
        self.told.append("new pool")
        return "pool"

    def CUDAGraph(self) -> Cuda:
        return self

    @contextmanager
    def graph(self, _graph: object, pool: str) -> Iterator[None]:
        self.told.append(f"capture in {pool}")
        yield
        self.told.append("captured")

    def replay(self) -> None:
        self.told.append("replay")

    @contextmanager
    def stream(self, stream: CudaStream) -> Iterator[None]:
        before, self.stream_now = self.stream_now, stream.name
        yield
        self.stream_now = before


@dataclass(slots=True)
class CudaStream:
    cuda: Cuda
    name: str

    def wait_stream(self, other: CudaStream) -> None:
        self.cuda.told.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: CudaEvent) -> None:
        self.cuda.told.append(f"{self.name} waits for event {event.number}")


@dataclass(slots=True)
class CudaEvent:
    cuda: Cuda
    number: int

    def record(self, stream: CudaStream) -> None:
        self.cuda.told.append(f"event {self.number} on {stream.name}")

    def query(self) -> bool:
        return self.number in self.cuda.ended

    def synchronize(self) -> None:
        self.cuda.told.append(f"host waits for event {self.number}")
        self.cuda.ended.add(self.number)

    def elapsed_time(self, end: CudaEvent) -> float:
        assert end.query(), "an event that has not ended has no time"
        return 1000.0 * end.number


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    stand_in = Cuda()
    monkeypatch.setattr(module, "_cuda", stand_in)
    return stand_in


def launched(accelerator: Accelerator, cuda: Cuda, key: str) -> float:
    return accelerator.step(lambda: cuda.told.append(f"launch {key} on {cuda.stream_now}"), key, lambda: 0.0)


def test_one_step_is_launched_behind_a_running_one_and_never_two(cuda: Cuda) -> None:
    accelerator = CudaAccelerator(torch.device("cpu"))
    assert launched(accelerator, cuda, "a") == 2.0, "nothing runs: its own time"
    cuda.told.clear()
    cuda.ended.clear()
    # Event 2 ends the first step, 4 the second, 6 the third.
    assert launched(accelerator, cuda, "a") == 2.0, "the time of the one before"
    assert cuda.told[-1] == "host waits for event 2"
    cuda.told.clear()
    assert launched(accelerator, cuda, "a") == 4.0
    assert cuda.told == ["event 5 on steps", "launch a on steps", "event 6 on steps", "host waits for event 4"]


def test_a_step_of_another_kind_waits_for_the_last_and_is_timed_itself(cuda: Cuda) -> None:
    accelerator = CudaAccelerator(torch.device("cpu"))
    launched(accelerator, cuda, "a")
    cuda.ended.clear()
    cuda.told.clear()
    assert launched(accelerator, cuda, "b") == 4.0
    assert cuda.told == [
        "host waits for event 2",
        "event 3 on steps",
        "launch b on steps",
        "event 4 on steps",
        "host waits for event 4",
    ]


def test_a_step_that_raises_leaves_the_last_one_in_place(cuda: Cuda) -> None:
    accelerator = CudaAccelerator(torch.device("cpu"))
    launched(accelerator, cuda, "a")
    cuda.ended.clear()

    def fail() -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        accelerator.step(fail, "a", lambda: 0.0)
    assert launched(accelerator, cuda, "a") == 2.0


def test_what_runs_beside_the_steps_comes_after_those_before_it_and_keeps_no_later_one_waiting(cuda: Cuda) -> None:
    accelerator = CudaAccelerator(torch.device("cpu"))

    def work() -> int:
        cuda.told.append(f"work on {cuda.stream_now}")
        return 7

    accelerator.join("decode")
    pending = accelerator.beside(work, "decode")
    assert cuda.told == ["side waits for steps", "event 1 on side", "work on side", "event 2 on side"]
    assert (pending.value, pending.is_done(), cuda.stream_now) == (7, False, "steps")
    pending.join()
    assert cuda.told[-1] == "steps waits for event 2"
    pending.wait()
    assert cuda.told[-1] == "host waits for event 2"
    assert (pending.is_done(), pending.seconds(99.0)) == (True, 2.0)
    cuda.told.clear()
    accelerator.join("other")
    assert cuda.told == []
    accelerator.join("decode")
    assert cuda.told == ["steps waits for side"]


def test_a_graph_is_captured_warm_and_what_it_returns_is_not_overwritten(cuda: Cuda) -> None:
    accelerator, static = CudaAccelerator(torch.device("cpu")), torch.zeros(2)

    def call() -> tuple[torch.Tensor, ...]:
        cuda.told.append(f"call on {cuda.stream_now}")
        return (static,)

    first = accelerator.graph(call)
    warm = ["side waits for steps", *["call on side"] * 3, "steps waits for side"]
    captured = ["capture in pool", "call on steps", "captured"]
    assert cuda.told == [*warm, "new pool", *captured]
    accelerator.graph(call)
    assert cuda.told[len(warm) + 1 + len(captured) :] == [*warm, *captured], "graphs share their memory"
    cuda.told.clear()
    [before] = first()
    static.fill_(1.0)
    assert (cuda.told, before.tolist()) == (["replay"], [0.0, 0.0])


def test_only_cuda_overlaps() -> None:
    assert not accelerator_of(torch.device("cpu")).overlaps
    assert CudaAccelerator.overlaps


@dataclass(slots=True)
class _Late(Pending[T]):
    left: list[int] = field(default_factory=lambda: [3])

    def is_done(self) -> bool:
        self.left[0] -= 1
        return self.left[0] <= 0

    def wait(self) -> None:
        self.left[0] = 0


class LateAccelerator(Accelerator):
    """Work beside the steps is done at the third look at it, or when the host waits."""

    overlaps = True

    def __init__(self) -> None:
        self.begun: list[str] = []

    def beside(self, work: Callable[[], T], stream: str) -> Pending[T]:
        self.begun.append(stream)
        return _Late(work())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("accelerator"))


def test_steps_go_on_while_a_picture_is_decoded_and_its_pixels_are_the_same(model: WatchedModel) -> None:
    jobs = [make_job("short", steps=2), make_job("long", steps=8, seed=2, height=128)]
    expected = stage(model).run(*jobs).pictures
    scene = stage(model, accelerator=LateAccelerator())
    scene.submit(*jobs)
    while not scene.pictures:
        scene.tick()
    assert list(scene.pictures) == ["short"]
    steps_meanwhile = scene.progress[-1]
    assert steps_meanwhile[0] == "long"
    scene.run()
    for name, picture in scene.pictures.items():
        assert np.array_equal(picture.pixels, expected[name].pixels)
        assert scene.outcomes[name] == 1


def test_a_job_that_ends_while_it_is_decoded_has_one_outcome(model: WatchedModel) -> None:
    scene = stage(model, accelerator=LateAccelerator())
    scene.submit(make_job("decoded", steps=1), make_job("other", steps=6, seed=2, height=128))
    while scene.engine._decodes.running is None:
        scene.tick()
    scene.engine.cancel("decoded", ErrorCode.CANCELLED, "no more")
    scene.run()
    assert (scene.outcomes["decoded"], scene.outcomes["other"]) == (1, 1)
    assert scene.codes() == {"decoded": ErrorCode.CANCELLED}


def test_a_vae_that_is_converted_for_a_picture_is_not_decoded_beside_the_steps(
    model: WatchedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = LateAccelerator()
    stage(model, accelerator=beside).run(make_job("one", steps=1))
    assert beside.begun == ["decode"]
    monkeypatch.setattr(decode_queue, "is_converted", lambda *_: True)
    assert stage(model, accelerator=beside).run(make_job("two", steps=1)).pictures.keys() == {"two"}
    assert beside.begun == ["decode"]


@pytest.mark.parametrize(
    ("held", "latents", "upcast", "converted"),
    [
        (torch.float16, torch.float16, True, True),
        (torch.float16, torch.float16, False, False),
        (torch.bfloat16, torch.float16, True, False),
        (torch.float32, torch.float32, True, False),
    ],
)
def test_a_vae_is_converted_where_it_overflows(
    held: torch.dtype, latents: torch.dtype, upcast: bool, converted: bool
) -> None:
    vae = SimpleNamespace(dtype=held, config=SimpleNamespace(force_upcast=upcast))
    assert is_converted(vae, latents) is converted


def test_a_bad_picture_fails_its_job_when_the_device_has_finished(model: WatchedModel) -> None:
    scene = stage(model, accelerator=LateAccelerator())
    bias: Any = model.base.vae.decoder.conv_out.bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias.fill_(float("nan"))
    try:
        scene.run(make_job("bad", steps=1))
    finally:
        with torch.no_grad():
            bias.copy_(kept)
    assert scene.codes() == {"bad": ErrorCode.MODEL_ERROR}
    assert "the VAE returned NaN" in scene.failures["bad"].message
