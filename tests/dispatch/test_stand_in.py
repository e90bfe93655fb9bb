"""The bench's stand-in for a GPU: what it draws is a picture in the worker's eyes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from devtools.bench.fleet import device
from devtools.bench.fleet.memory_store import MemoryStore
from tests.harness import small_request
from worker.delivery.encode import check_pixels
from worker.delivery.finish import Finisher
from worker.engine_interface import EngineHooks
from worker.events.types import Lora
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.job import Lane, Origin
from worker.picture import Picture
from worker.settings import Settings


@pytest.mark.parametrize(("height", "width"), [(64, 64), (1024, 768)])
def test_its_pictures_are_not_refused(height: int, width: int) -> None:
    pixels = device.slope(height, width)
    assert pixels.shape == (height, width, 3)
    assert check_pixels(pixels) is None


def test_a_picture_with_a_lora_is_stored() -> None:
    drawn: list[Picture] = []

    class Hooks:
        def __getattr__(self, name: str) -> Any:
            return drawn.append if name == "on_pixels" else lambda *_: None

    settings = Settings(_env_file=None, aws_s3_bucket="b")
    loaded = device.loaded(0.001, lambda *_: None)
    engine = loaded.make_engine(cast("EngineHooks", Hooks()))
    request = small_request(loras=(Lora(name="a", weight=1.0),))
    engine.submit(admit(request, Arrival(Origin("t", 0, 0, 1), Lane.HIGH, 1.0, {}), AdmissionRules(settings), 2.0))
    while not drawn:
        assert engine.tick()
    finished = Finisher(cast("Any", MemoryStore()), loaded.info, settings).finish(drawn[0], 3.0)
    assert finished.lora_fingerprints == {"a": "stand-in"}
