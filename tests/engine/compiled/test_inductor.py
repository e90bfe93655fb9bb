"""A start with the real compiler: probes, and a signal while it works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from worker.engine.compiled.compiler import CACHE_VARIABLE, missing_tool

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(missing_tool(torch.device("cpu")) is not None, reason="no C++ compiler"),
]

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
