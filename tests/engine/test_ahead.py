"""What is done beside the steps for jobs whose turn is near: it comes before what needs it, and changes no picture."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.scenario import Stage, make_job, stage
from worker.engine.accelerator import Accelerator, Pending, T
from worker.engine.lora import exchange
from worker.engine.lora.exchange import Exchange
from worker.errors import ErrorCode
from worker.job import Job, Lane

pytestmark = pytest.mark.slow

SETS: dict[str, list[tuple[str, float]]] = {"bare": [], "one": [("one", 0.8)], "two": [("two", -1.0), ("one", 0.3)]}


class Noted(Accelerator):
    """Overlaps as far as the engine can see, and notes in which order things were given to the device."""

    overlaps = True

    def __init__(self) -> None:
        self.told: list[str] = []

    def beside(self, work: Callable[[], T], stream: str) -> Pending[T]:
        self.told.append(stream)
        return Pending(work())

    def join(self, stream: str) -> None:
        self.told.append(f"join {stream}")

    def step(self, launch: Callable[[], None], key: Hashable, clock: Callable[[], float]) -> float:
        def told() -> None:
            launch()
            self.told.append("step")

        return Accelerator.step(self, told, key, clock)


def jobs() -> list[Job]:
    """One runs while the others wait: they are of another size."""
    running = make_job("running", steps=8, height=128)
    waiting = [
        make_job(name, loras=loras, guidance=3.0, prompt=f"a {name}", steps=3, refined=name == "two")
        for name, loras in SETS.items()
    ]
    return [running, *waiting]


def assert_same(play: Stage, expected: Stage) -> None:
    assert play.pictures.keys() == expected.pictures.keys(), play.codes()
    for name, picture in expected.pictures.items():
        assert np.array_equal(play.pictures[name].pixels, picture.pixels), name


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_SLICE_ELEMENTS", 20_000)


@pytest.mark.usefixtures("small_slices")
def test_prompts_are_encoded_and_sets_merged_while_others_are_stepped(make_model: Any) -> None:
    expected = stage(make_model()).run(*jobs())
    model, beside = make_model(), Noted()
    encoded: list[int] = []
    real = model.base.text_encoder_2.forward
    play = stage(model, accelerator=beside)

    def forward(*given: Any, **named: Any) -> Any:
        encoded.append(beside.told.count("step"))
        return real(*given, **named)

    model.base.text_encoder_2.forward = forward
    play.run(*jobs())
    assert_same(play, expected)
    # The first job's own prompt before any step, all others during its steps.
    assert encoded[0] == 0
    assert max(encoded) < 8
    assert model.lora_cache.exchange.merges == 2
    assert_joined(beside.told)


def assert_joined(told: list[str]) -> None:
    """Whatever is done ahead is joined before the last step, and not before every one of them."""
    assert "ahead" in told
    last = len(told) - told[::-1].index("ahead")
    assert "join ahead" in told[last:]
    assert told.count("join ahead") < told.count("step")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Noted:
    """An accelerator that is told too when the steps change to the second copy."""
    noted, real = Noted(), Exchange.use

    def use(self: Exchange, wanted: Any) -> None:
        if wanted is not None and self.in_use != wanted:
            noted.told.append("second copy")
        real(self, wanted)

    monkeypatch.setattr(Exchange, "use", use)
    return noted


def assert_joined_before_uses(told: list[str], *, uses: int) -> None:
    found = [at for at, what in enumerate(told) if what == "second copy"]
    assert len(found) >= uses
    for at in found:
        assert [what for what in told[:at] if what in ("ahead", "join ahead")][-1:] != ["ahead"]


def test_a_set_that_was_merged_beside_is_joined_before_its_first_step(make_model: Any, beside: Noted) -> None:
    stage(make_model(), accelerator=beside).run(*jobs())
    assert_joined_before_uses(beside.told, uses=2)


def test_a_set_that_is_merged_again_for_a_parked_row_is_joined(make_model: Any, beside: Noted) -> None:
    model = make_model()
    play = stage(model, accelerator=beside)
    play.submit(make_job("one", loras=SETS["one"], steps=6))
    play.tick(3)
    urgent: dict[str, Any] = {"lane": Lane.URGENT, "height": 128}
    play.submit(make_job("two", loras=SETS["two"], steps=4, **urgent))
    while beside.told.count("second copy") < 2:
        play.tick()
    play.submit(make_job("bare", steps=6, **urgent))
    while "two" not in play.pictures:
        play.tick()
    merged = len(beside.told)
    play.run()
    assert play.pictures.keys() == {"one", "two", "bare"}
    assert beside.told[merged:].count("ahead") > 0, "one is merged again while bare is drawn"
    assert_joined_before_uses(beside.told, uses=3)


@pytest.mark.parametrize("options", [{"refiner_offload": True}, {"lora_second_copy": False}], ids=str)
def test_weights_that_move_or_are_overwritten_change_nothing(make_model: Any, options: dict[str, Any]) -> None:
    expected = stage(make_model()).run(*jobs())
    beside = Noted()
    assert_same(stage(make_model(**options), accelerator=beside).run(*jobs()), expected)
    assert ("ahead" in beside.told) == ("refiner_offload" not in options)


def test_a_job_that_ends_before_its_turn_is_joined_and_forgotten(make_model: Any) -> None:
    model, beside = make_model(), Noted()
    play = stage(model, accelerator=beside)
    play.submit(*jobs())
    play.tick(4)
    assert play.engine._ahead.has_encoded(jobs()[1].origin)
    beside.told.clear()
    for job in jobs()[1:]:
        play.engine.cancel(job.job_id, ErrorCode.CANCELLED, "no more")
    play.tick()
    assert beside.told[0] == "join ahead"
    play.run()
    assert list(play.pictures) == ["running"]
    assert not play.engine._ahead._encoded
    assert not any(adapter.users for adapter in model.lora_cache._cache.values())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")]
)
def test_what_fails_beside_is_done_again_when_it_is_needed(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = stage(make_model()).run(*jobs())
    model, beside = make_model(), Noted()
    failed: list[str] = []

    def fail(work: Callable[[], T], stream: str) -> Pending[T]:
        if stream == "ahead":
            failed.append(stream)
            raise error
        return Pending(work())

    monkeypatch.setattr(beside, "beside", fail)
    assert_same(stage(model, accelerator=beside).run(*jobs()), expected)
    assert len(failed) > 3
