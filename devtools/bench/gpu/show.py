"""Format the report of `bench gpu` as tables of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from devtools.bench.gpu.aims import Aim, aims

WIDTH = 80
FINE_PRINT = """\
s: median seconds from a job's arrival to its pixels on the host, text encoding
and decode included. Floor: the operations of the picture's UNet calls and its
decode at the card's rate for half precision with float32 sums. Steps: ticks of
the engine without a decode. Ratios are the worker's seconds to the other's,
medians of pairs that were drawn in turns; below 1 the worker is faster.
"""
TOY_PRINT = "Toy size on a CPU: it shows that the bench works, and says nothing about a GPU.\n"
_COLUMNS = (
    ("unpadded", "un-\npadded"),
    ("without LoRA", "without\nLoRA"),
    ("diffusers", "diffusers\nplain"),
    ("diffusers fast", "diffusers\nfast"),
)


def tables(report: Mapping[str, Any], *, toy: bool) -> Iterator[Table]:
    """Yield the tables: pictures, ratios, traffic, aims."""
    yield _pictures(report)
    yield _ratios(report)
    yield _traffic(report)
    yield _aims(aims(report), judged=not toy)


def head(report: Mapping[str, Any]) -> str:
    """Return what stands above the tables: the device, its limits, and the start."""
    card, start = report["card"], report["start"]
    lines = [f"{report['device']}, {report['dtype']}, torch {report['versions']['torch']}"]
    if card is None:
        lines.append("no limits are known of it (devtools/bench/gpu/cards.py), so there is no floor")
    else:
        lines.append(
            f"limits: {card['fp32_accumulate_tflops']:g} TFLOP/s with float32 sums, "
            f"{card['fp16_accumulate_tflops']:g} with float16 sums, {card['bandwidth_gb_s']:g} GB/s"
        )
        lines.append(f"({card['source']})")
    lines.append(
        f"loaded in {start['load_s']:.1f} s; {start['case']}:"
        f" first {_s(start['first_picture_s'])} s, second {_s(start['second_picture_s'])} s"
    )
    if report["settings"]:
        lines.append("settings: " + ", ".join(f"{name}={value}" for name, value in report["settings"].items()))
    return "\n".join(lines)


def _table(title: str, *headings: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0)
    )
    first, *others = headings
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _pictures(report: Mapping[str, Any]) -> Table:
    table = _table("the worker alone", "picture", "s", "of\nfloor", "step ms\np50", "\np99", "peak\nGB")
    for entry in report["cases"]:
        if "error" in entry:
            table.add_row(entry["case"], "failed")
            continue
        times = entry["step_times"]
        table.add_row(
            entry["case"],
            _s(entry["median_s"]),
            _number(entry["over_floor"]),
            _number(times["p50_ms"], 1),
            _number(times["p99_ms"], 1),
            _number(entry["peak_gb"], 1),
        )
    return table


def _ratios(report: Mapping[str, Any]) -> Table:
    table = _table("the worker's seconds, of the other's", "picture", *(heading for _, heading in _COLUMNS))
    for entry in report["cases"]:
        against = entry.get("against", {})
        table.add_row(entry["case"], *(_ratio(against.get(name)) for name, _ in _COLUMNS))
    return table


def _ratio(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return "failed" if "error" in found else f"{found['ratio']:.3f}"


def _traffic(report: Mapping[str, Any]) -> Table:
    title = "joins and preemptions; * with LoRA changes"
    table = _table(
        title, "size", "mixed\ns", "of one\nby one", "preemp-\ntions", "step ms\np50", "\np99", "\nmax", "with\ndecode"
    )
    for entry in report["traffic"]:
        name = f"{entry['side_px']}²{' *' if entry['loras'] else ''}"
        if "error" in entry:
            table.add_row(name, "failed")
            continue
        times = entry["mixed_steps"]
        table.add_row(
            name,
            _s(sorted(entry["mixed_s"])[len(entry["mixed_s"]) // 2]),
            f"{entry['ratio']:.3f}",
            f"{entry['preemptions']:.0f}",
            *(_number(times[key], 1) for key in ("p50_ms", "p99_ms", "max_ms", "max_with_decode_ms")),
        )
    return table


def _aims(found: list[Aim], *, judged: bool) -> Table:
    table = _table("aims, with the worst figure of each", "what", "measured", "at most", "")
    for aim in found:
        if aim.holds is None:
            verdict = aim.why
        elif not judged:
            verdict = ""
        else:
            verdict = "[green]holds[/]" if aim.holds else "[red]missed[/]"
        table.add_row(aim.what, _number(aim.measured, 3), f"{aim.at_most:g}", verdict)
        if aim.where and judged and not aim.holds:
            table.add_row(f"  at {aim.where}")
    return table


def _s(seconds: float) -> str:
    return f"{seconds:.2f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
