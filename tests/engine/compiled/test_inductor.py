"""The real compiler, on a UNet that is as small as one can be; and a signal while it works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel

from tests.engine.scenario import make_job
from worker.engine.accelerator import Accelerator
from worker.engine.compiled.bucket import Bucket
from worker.engine.compiled.compiler import CACHE_VARIABLE, Compiler, graphs, missing_tool, no_recompilation
from worker.engine.compiled.region import make_inputs, make_region
from worker.engine.compiled.self_check import check, make_rows
from worker.engine.cost import Group, Stage
from worker.engine.denoise import Denoiser
from worker.engine.row import Conditioning, Row

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(missing_tool(torch.device("cpu")) is not None, reason="no C++ compiler"),
]

GROUP = Group(Stage.BASE, 8, 8, 1, guided=True, samples=4, compiled=True)
WIDTH, TEXT, IDS = 8, 4, 6


def smallest_unet() -> Any:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        transformer_layers_per_block=1,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=TEXT + IDS * 4,
    )
    return unet.eval().requires_grad_(False)


def rows() -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    prompt, negative = (torch.randn(1, 77, WIDTH, generator=generator) for _ in range(2))
    pooled, negative_pooled = (torch.randn(1, TEXT, generator=generator) for _ in range(2))
    ids = torch.full((1, IDS), 64.0)
    condition = Conditioning(5.0, prompt, pooled, ids, negative, negative_pooled, ids)
    return make_rows(GROUP, make_job("one", guidance=5.0), condition, DPMSolverMultistepScheduler().config, 4)


@torch.inference_mode()
def test_a_compiled_step_agrees_with_the_eager_one_and_reads_weights_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    unet, condition, before = smallest_unet(), rows()[0].conditioning, graphs()
    inputs = make_inputs(
        GROUP, channels=4, prompt=condition.prompt, pooled=condition.pooled, time_ids=condition.time_ids
    )
    region = Compiler().compile(make_region(unet, GROUP, rescale=0.0, velocity=False))
    bucket, eager = Bucket(GROUP, region, inputs, Accelerator()), Denoiser(unet)
    pristine = check(bucket, eager, rows)
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    with no_recompilation():
        for name, value in unet.named_parameters():
            value.data.copy_(weights[name] * 1.2)
        assert check(bucket, eager, rows) != pristine
        for name, value in unet.named_parameters():
            value.data.copy_(weights[name])
        assert check(bucket, eager, rows) == pristine
    assert graphs() - before == 1
    assert any(path.suffix == ".so" for path in tmp_path.rglob("*")), "the kernels are kept"


_START = """
import sys, time
from pathlib import Path
from devtools.bench.equality.draw import load_toy
from worker.call_sizes import CallSizes
from worker.engine.compiled.fast_path import Plan
from worker.engine.compiled.start import Wish, start_fast_path
from worker.signals import Signals, StoppedEarly
from worker.telemetry.health import Health, serve

print(serve(Health(time.monotonic), "127.0.0.1", 0)[1])
model, signals = load_toy(Path(sys.argv[1])), Signals()
signals.starting = True
try:
    start_fast_path(model, Wish("on", Plan(((64, 64),), 1, True), None), CallSizes("cpu", "float32"))
except StoppedEarly as stop:
    sys.exit(40 + stop.exit_code)
"""


def test_a_start_that_compiles_answers_probes_and_ends_at_a_signal(tmp_path: Path) -> None:
    environment = os.environ | {CACHE_VARIABLE: str(tmp_path / "kernels"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", _START, str(tmp_path / "toy")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        lines = iter(process.stdout.readline, "")
        assert any("bucket_compiling" in line for line in lines)
        with urllib.request.urlopen(f"{address}/health", timeout=60) as answer:
            assert json.load(answer)["status"] == "starting"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{address}/ready", timeout=60)
        process.send_signal(signal.SIGTERM)
        told = process.stdout.read()
        assert process.wait() == 40
    assert "bucket_left_out" not in told
