"""Whether there is a fast path at all: what stands in its way costs a line in the log, and no start."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from structlog.testing import capture_logs

from devtools.bench.equality.draw import WatchedModel, load_toy
from tests.engine.compiled.compilers import SIDE, NotCompiled
from worker.call_sizes import CallSizes
from worker.engine.canary import canary
from worker.engine.compiled import start
from worker.engine.compiled.compiler import CACHE_VARIABLE, missing_tool, use_cache
from worker.engine.compiled.fast_path import Plan
from worker.engine.compiled.start import Wish, is_wanted, start_fast_path

CALLS = CallSizes("cpu", "float32")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> WatchedModel:
    return load_toy(tmp_path_factory.mktemp("start"))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kernels"))


def wish(mode: str = "on") -> Wish:
    return Wish(mode, Plan((SIDE,), chunks=1, guided=True))


@pytest.mark.parametrize(
    ("mode", "device", "wanted"),
    [("auto", CPU, False), ("auto", CUDA, True), ("on", CPU, True), ("off", CUDA, False)],
)
def test_auto_means_cuda(mode: str, device: torch.device, wanted: bool) -> None:
    assert is_wanted(mode, device) is wanted


def test_on_a_cpu_nothing_is_compiled_unless_it_is_asked_for(model: WatchedModel) -> None:
    with capture_logs() as lines:
        assert start_fast_path(model, wish("auto"), CALLS).names == ()
    assert lines == []


def test_every_stage_gets_its_buckets_before_the_worker_is_ready(model: WatchedModel) -> None:
    compiler = NotCompiled()
    with capture_logs() as lines:
        fast = start_fast_path(model, wish(), CALLS, compiler=compiler)
    base, refiner = "base 8x8 77x1 guided 8", "refiner 8x8 77x1 guided 8"
    assert fast.names == (base, f"{base} with LoRAs", refiner)
    assert len(compiler.made) == 2
    ready = [line for line in lines if line["event"] == "bucket_ready"]
    assert [(line["bucket"], line["loras"]) for line in ready] == [(base, True), (refiner, False)]
    assert len({line["latents_sha256"] for line in ready}) == 2
    assert not model._encoded._kept, "the prompt of the checks is nobody's"


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        ("calls", "DETERMINISTIC is off"),
        ("offload", "REFINER_OFFLOAD moves the weights that a compiled step expects in their place"),
        ("compiler", "no CXX compiler is installed (g++ or clang++)"),
    ],
)
def test_what_stands_in_the_way_is_one_line(
    model: WatchedModel, monkeypatch: pytest.MonkeyPatch, obstacle: str, reason: str
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    if obstacle == "compiler":
        monkeypatch.setattr(start, "missing_tool", lambda device: missing_tool(device, {}, lambda _: None))
    if obstacle == "offload":
        monkeypatch.setattr(model, "refiner_offload", True)
    with capture_logs() as lines:
        fast = start_fast_path(model, wish(), None if obstacle == "calls" else CALLS, compiler=NotCompiled())
    assert fast.names == ()
    assert [(line["event"], line["reason"]) for line in lines] == [("not_compiled", reason)]


def test_the_tools_that_a_device_needs() -> None:
    def missing(device: torch.device, environment: dict[str, str], *names: str, triton: bool = True) -> str | None:
        return missing_tool(device, environment, lambda n: n if n in names else None, lambda _: triton)

    assert missing(CPU, {}, "g++") is None
    assert missing(CPU, {}, "clang++") is None
    assert missing(CPU, {}, "gcc") == "no CXX compiler is installed (g++ or clang++)"
    assert missing(CPU, {"CXX": "own-g++"}, "g++") == "no CXX compiler is installed (own-g++)"
    assert missing(CUDA, {}, "gcc") is None
    assert missing(CUDA, {}) == "no CC compiler is installed (gcc or clang)"
    assert missing(CUDA, {}, "gcc", triton=False) == "Triton is not installed"


def test_the_cache_is_where_it_is_wanted(tmp_path: Path) -> None:
    environment = {CACHE_VARIABLE: str(tmp_path / "named")}
    assert use_cache(tmp_path / "wanted" / "deep", environment) == tmp_path / "wanted" / "deep"
    assert environment == {CACHE_VARIABLE: str(tmp_path / "wanted" / "deep")}
    environment = {CACHE_VARIABLE: str(tmp_path / "named")}
    assert use_cache(None, environment) == tmp_path / "named"
    assert use_cache(None, {}).is_dir()


def test_a_cache_that_cannot_be_written_is_told_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment: dict[str, str] = {}
    with capture_logs() as lines:
        used = use_cache(tmp_path / "file" / "kernels", environment)
    assert used.is_dir()
    assert environment == {CACHE_VARIABLE: str(used)}
    assert [(line["event"], line["folder"]) for line in lines] == [
        ("compile_cache_not_kept", str(tmp_path / "file" / "kernels"))
    ]
    used.rmdir()


def test_a_cache_that_nothing_can_be_loaded_from_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noexec = SimpleNamespace(f_flag=os.ST_NOEXEC)
    monkeypatch.setattr(os, "statvfs", lambda _: noexec)
    with capture_logs() as lines:
        use_cache(tmp_path / "kernels", {}).rmdir()
    assert lines[0]["reason"] == "it is mounted noexec, and kernels are loaded from it"


def test_the_canary_is_the_same_picture_every_time(model: WatchedModel) -> None:
    first = canary(model)
    assert first is not None
    assert len(first) == 16
    assert canary(model) == first
    weight = model.base.unet.conv_out.bias
    with torch.no_grad():
        weight.add_(0.5)
    try:
        assert canary(model) != first
    finally:
        with torch.no_grad():
            weight.sub_(0.5)


def test_the_canary_leaves_no_trace(model: WatchedModel) -> None:
    canary(model)
    assert not model._encoded._kept
    assert model.lora_cache.loaded == 0
