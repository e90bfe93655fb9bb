"""`bench gpu`: the limits of cards, the count of operations, pairs, aims and tables, and a whole run at toy size."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from devtools.bench.gpu.aims import aims
from devtools.bench.gpu.cards import CARDS, card_of, floor_s
from devtools.bench.gpu.cases import KINDS, cases, prompts
from devtools.bench.gpu.diffusers_side import MAX_AUTOTUNE, compile_options
from devtools.bench.gpu.pairs import in_turns
from devtools.bench.gpu.run import AGAINST, Bench
from devtools.bench.gpu.show import FINE_PRINT, WIDTH, head, tables
from devtools.bench.gpu.traffic import mix
from devtools.bench.gpu.work import unet_tflop, vae_tflop
from devtools.cli.bench import app
from devtools.cli.bench_gpu import AGAINST as AGAINST_OPTION
from devtools.cli.bench_gpu import KINDS as KINDS_OPTION
from worker.errors import SettingsError
from worker.job import Lane
from worker.models.single_file import SHIPPED


@pytest.mark.parametrize(
    ("device", "floor"), [("NVIDIA GeForce RTX 4090", 2.52), ("NVIDIA H100 80GB HBM3", 0.42), ("NVIDIA H200", 0.42)]
)
def test_the_floor_of_a_picture_of_1024_in_30_steps(device: str, floor: float) -> None:
    card = card_of(device)
    assert card is not None
    assert round(floor_s(416.0, card), 2) == floor


def test_geforce_cards_alone_are_faster_with_half_precision_sums() -> None:
    twice = {name for name, card in CARDS.items() if card.fp16_accumulate_tflops > 1.9 * card.fp32_accumulate_tflops}
    assert twice == {name for name in CARDS if name.startswith("RTX")}


@pytest.mark.parametrize(
    "device",
    ["NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "cpu"],
)
def test_a_card_that_only_shares_a_name_has_no_floor(device: str) -> None:
    assert card_of(device) is None


@pytest.mark.slow
def test_a_call_of_sdxl_has_the_operations_that_others_count() -> None:
    configs = {name: json.loads((SHIPPED / f"base/{name}/config.json").read_text()) for name in ("unet", "vae")}
    assert round(unet_tflop(configs["unet"], 128, 128, pooled=1280), 2) == 6.76
    assert round(vae_tflop(configs["vae"], 128, 128), 1) == 10.5


def test_pairs_are_drawn_in_turns_and_the_first_is_not_counted() -> None:
    called: list[str] = []

    def draw(name: str, *seconds: float) -> Any:
        left = iter(seconds)

        def one() -> float:
            called.append(name)
            return next(left)

        return one

    pairs = in_turns(draw("a", 100.0, 2.0, 3.0, 8.0), draw("b", 100.0, 1.0, 2.0, 2.0), rounds=3)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert (pairs.ours, pairs.theirs) == ([2.0, 3.0, 8.0], [1.0, 2.0, 2.0])
    assert pairs.ratio == 2.0


def test_the_traffic_preempts_and_changes_loras_and_plain_traffic_has_none() -> None:
    arrivals = mix(1024, 20, loras=True)
    assert all(one.after_steps <= other.after_steps for one, other in pairwise(arrivals))
    assert any(arrival.lane is Lane.URGENT and arrival.after_steps for arrival in arrivals)
    sets = [arrival.case.kind.loras for arrival in arrivals]
    assert set(sets) == {0, 1, 2}
    plain = mix(1024, 20, loras=False)
    assert [(a.after_steps, a.lane) for a in plain] == [(a.after_steps, a.lane) for a in arrivals]
    assert not any(arrival.case.kind.loras for arrival in plain)


def test_no_prompt_repeats_and_all_have_the_same_length() -> None:
    source = prompts(1)
    some = [next(source) for _ in range(1000)]
    assert len(set(some)) == 1000
    assert len({len(prompt) for prompt in some}) == 1


def test_the_documented_fast_path_is_what_diffusers_gets() -> None:
    how = compile_options(MAX_AUTOTUNE)
    assert how["fullgraph"] is True
    assert how["options"]["max_autotune"] is True
    assert how["options"]["triton.cudagraphs"] is True
    assert how["options"]["conv_1x1_as_mm"] is True
    assert compile_options("eager")["backend"] == "eager"
    # A misspelt option is an error here, not on a GPU that is rented by the hour.
    torch.compile(torch.nn.Identity(), **how)


def test_the_options_name_everything_that_there_is() -> None:
    assert tuple(AGAINST_OPTION.split(",")) == AGAINST
    assert KINDS_OPTION.split(",") == [kind.name for kind in KINDS]


def a_report(device: str = "NVIDIA H100 80GB HBM3", *, ratio: float = 1.0, over_floor: float = 1.5) -> dict[str, Any]:
    """A report as a full run writes it, with the largest numbers that tables must hold."""
    compared = {"worker_s": [123.4], "other_s": [123.4], "other_median_s": 123.4, "ratio": ratio}
    ticks = {"count": 9, "p50_ms": 12345.6, "p99_ms": 12345.6, "max_ms": 12345.6, "max_with_decode_ms": 12345.6}
    found = [
        {
            "case": case.name,
            "side_px": case.side_px,
            "steps": case.steps,
            "kind": case.kind.name,
            "median_s": 123.4,
            "over_floor": over_floor,
            "step_times": ticks,
            "peak_gb": 123.4,
            "against": {name: dict(compared) for name in AGAINST if case.kind.loras or name != "without LoRA"},
        }
        for case in cases(KINDS, (1024, 512), (20, 30))
    ]
    traffic = [
        {"side_px": 1024, "steps": 20, "loras": loras, "mixed_s": [123.4], "ratio": ratio, "preemptions": 123.0}
        | {"mixed_steps": ticks}
        for loras in (False, True)
    ]
    card = card_of(device)
    return {
        "device": device,
        "dtype": "bfloat16",
        "card": None if card is None else {
            "fp32_accumulate_tflops": card.fp32_accumulate_tflops,
            "fp16_accumulate_tflops": card.fp16_accumulate_tflops,
            "bandwidth_gb_s": card.bandwidth_gb_s,
            "source": card.source,
        },
        "versions": {"torch": "2.15.0"},
        "settings": {"COMPILE": "off"},
        "start": {"case": found[0]["case"], "load_s": 12.3, "first_picture_s": 123.4, "second_picture_s": 123.4},
        "cases": found,
        "traffic": traffic,
    }  # fmt: skip


def shown(report: dict[str, Any], *, toy: bool = False) -> str:
    console = Console(width=WIDTH, record=True, highlight=False, file=io.StringIO())
    console.print(head(report), markup=False)
    for table in tables(report, toy=toy):
        console.print(table)
    return console.export_text()


def test_every_table_of_a_full_run_fits_into_80_columns_uncut() -> None:
    text = shown(a_report()) + FINE_PRINT
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    assert "1024², 30 steps, 2 LoRAs" in text


def test_a_missed_aim_is_shown_as_missed_with_its_place() -> None:
    good, bad = shown(a_report(ratio=1.0)), shown(a_report(ratio=1.2, over_floor=2.5))
    assert "missed" not in good
    assert good.count("holds") == 5
    assert bad.count("missed") == 5
    assert "at 1024², 30 steps" in bad or "at 512², 30 steps" in bad
    assert "missed" not in shown(a_report(ratio=1.2), toy=True)


def test_the_aim_against_the_floor_is_the_cards_own() -> None:
    by_card = {
        name: next(aim for aim in aims(a_report(name, over_floor=1.5)) if "floor" in aim.what)
        for name in ("NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090", "NVIDIA L4", "cpu")
    }
    assert [aim.holds for aim in by_card.values()] == [True, False, None, None]
    assert by_card["NVIDIA GeForce RTX 4090"].at_most == 0.9


def test_what_failed_or_was_left_out_counts_for_no_aim_and_is_shown() -> None:
    report = a_report()
    for entry in report["cases"]:
        entry["against"] = {"diffusers fast": {"error": "OutOfMemoryError: CUDA out of memory"}}
    report["cases"][0] = {key: report["cases"][0][key] for key in ("case", "side_px", "steps", "kind")} | {
        "error": "no"
    }
    report["traffic"][0] = {"side_px": 1024, "steps": 20, "loras": False, "error": "no"}
    assert [aim.holds for aim in aims(report)] == [None, None, True, None, True]
    assert shown(report).count("failed") == 1 + len(report["cases"]) - 1 + 1


def test_a_side_that_fails_is_told_in_the_report_and_the_rest_goes_on() -> None:
    bench, entry = object.__new__(Bench), {"against": {}}  # type: ignore[var-annotated]
    written: list[Any] = []
    bench._draw = lambda _case: 1.0  # type: ignore[method-assign,assignment]
    bench._write, bench.report = written.append, {"cases": [entry]}
    bench._plan = type("Plan", (), {"rounds": 1})()

    def no_memory() -> float:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    case = cases(KINDS, (64,), (3,))[0]
    bench._compare(entry, "diffusers", case, no_memory)
    assert entry["against"]["diffusers"] == {"error": "OutOfMemoryError: CUDA out of memory."}
    bench._compare(entry, "unpadded", case, lambda: 2.0)
    assert entry["against"]["unpadded"]["ratio"] == 0.5
    assert len(written) == 2


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.models.cuda.cuda_trouble", lambda: "driver 12 is too old")
    result = CliRunner().invoke(app, ["gpu"])
    assert isinstance(result.exception, SettingsError), "exits.py makes it one line and exit code 2"
    assert str(result.exception) == "bench gpu needs a GPU, and driver 12 is too old; `bench gpu --toy` runs on the CPU"


@pytest.mark.parametrize(
    "arguments", [["--side", "100"], ["--kinds", "3 LoRAs"], ["--against", "a4"], ["--set", "DTYPE"], ["--rounds", "0"]]
)
def test_a_wrong_option_is_refused_before_anything_is_written(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert CliRunner().invoke(app, ["gpu", "--toy", "--out", str(out), *arguments]).exit_code != 0
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)  # 15 s of work, on a machine that may be busy
def test_a_toy_run_compares_the_same_pictures_and_tells_all(tmp_path: Path) -> None:
    out = tmp_path / "new" / "gpu.json"
    result = CliRunner().invoke(app, ["gpu", "--toy", "--kinds", "base,refiner,2 LoRAs", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= WIDTH
    report = json.loads(out.read_text())
    by_kind = {entry["kind"]: entry for entry in report["cases"]}
    assert set(by_kind) == {"base", "refiner", "2 LoRAs"}
    for kind, entry in by_kind.items():
        assert set(entry["against"]) == set(AGAINST) - (set() if "LoRA" in kind else {"without LoRA"})
        for name in ("diffusers", "diffusers fast"):
            # All sides did the same work: LoRAs and refiner included, the pictures agree but for rounding.
            assert entry["against"][name]["mean_pixel_difference"] < 0.1, (kind, entry["against"][name])
        assert all(found["ratio"] > 0 for found in entry["against"].values())
        assert entry["step_times"]["count"] == 2 * report["rounds"], "three steps, the last with the decode"
    assert all(entry["preemptions"] > 0 for entry in report["traffic"]), "an urgent job came and nothing was parked"
    assert [entry["loras"] for entry in report["traffic"]] == [False, True]
    assert by_kind["base"]["tflop"] == by_kind["2 LoRAs"]["tflop"] > by_kind["refiner"]["tflop"] > 0
    assert report["start"]["first_picture_s"] > 0
    assert report["process_peak_gb"] > 0.1
