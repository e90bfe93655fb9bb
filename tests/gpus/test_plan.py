"""No two workers of a machine share a name, a port, a card or a cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from worker.errors import SettingsError
from worker.gpus.cards import Card
from worker.gpus.plan import CACHES, Plan, cache_home, plan_workers
from worker.settings import Settings

CARDS = [Card("GPU-a", "x", 0), Card("MIG-b", "x", 3)]


def plans(environment: Mapping[str, str] | None = None, **given: Any) -> list[Plan]:
    chosen = {"worker_id": "box", "http_port": 8007, "device": "auto", **given}
    return plan_workers(CARDS, environment=environment or {}, home=Path("/cache"), **chosen)


def test_each_has_its_own() -> None:
    first, second = plans()
    assert first.environment == {
        "CUDA_VISIBLE_DEVICES": "GPU-a", "DEVICE": "cuda", "WORKER_ID": "box-gpu0", "HTTP_PORT": "8007",
        "TORCHINDUCTOR_CACHE_DIR": "/cache/torchinductor_cache_dir/gpu0",
        "TRITON_CACHE_DIR": "/cache/triton_cache_dir/gpu0", "CUDA_CACHE_PATH": "/cache/cuda_cache_path/gpu0",
    }  # fmt: skip
    shared = {name for name in first.environment if first.environment[name] == second.environment[name]}
    assert shared == {"DEVICE"}
    assert not set(first.caches) & set(second.caches)


def test_a_worker_takes_what_it_is_told() -> None:
    for plan in plans():
        told = {
            name.lower(): value for name, value in plan.environment.items() if name.lower() in Settings.model_fields
        }
        settings = Settings(_env_file=None, **told)  # type: ignore[arg-type]
        assert (settings.worker_id, settings.device) == (plan.name, "cuda")


def test_a_cache_that_is_configured_is_divided() -> None:
    first, second = plans({CACHES[0]: "/fast"})
    assert first.environment[CACHES[0]] == "/fast/gpu0"
    assert second.environment[CACHES[0]] == "/fast/gpu3"


def test_any_free_port_is_any_free_port_for_each() -> None:
    assert [plan.environment["HTTP_PORT"] for plan in plans(http_port=0)] == ["0", "0"]


@pytest.mark.parametrize(
    ("given", "sentence"), [({"device": "cpu"}, "DEVICE is cpu"), ({"http_port": 65_535}, "HTTP_PORT")]
)
def test_what_cannot_be_is_one_line(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        plans(**given)


@pytest.mark.parametrize(
    ("environment", "home"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/sdxl-worker"),
        ({"HOME": "/h"}, "/h/.cache/sdxl-worker"),
        ({}, "/tmp/.cache/sdxl-worker"),
    ],
)
def test_where_caches_are(environment: dict[str, str], home: str) -> None:
    assert cache_home(environment) == Path(home)
