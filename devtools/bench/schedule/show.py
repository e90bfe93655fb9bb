"""Format the benchmark's report as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from worker.job import Lane

# Figures that are shown without a target.
ALSO = (
    ("tick_overhead_over_diffusers", "engine's whole tick, of diffusers' alone"),
    ("tick_overhead_over_diffusers_batch", "engine's whole tick, of diffusers' batch"),
    ("capacity_over_fifo", "pictures per time from a backlog, of FIFO's"),
    ("urgent_p99_completion_over_fifo", "urgent p99 completion, of FIFO's"),
    ("together_turns_steps", "mean completion of four jobs together, in turns, in steps of one row"),
    ("together_shared_steps", "the same, in calls of four rows"),
    ("wall_throughput_over_fifo", "pictures per real second of ticks, of FIFO's"),
)

# Width of the tables if the output is not a terminal.
WIDTH = 140
FINE_PRINT = """\
Time is virtual: a step, a decode and a start take their medians, measured on the toy in this run, so that only the
policy makes a difference. Waits end when the first UNet call begins. p99 is by nearest rank.
Useful slots: rows divided by those that a call has room for, over the steps with at least as many jobs present.
Stand-ins have the same prices, and are checked to give the same schedule. p99 of the few urgent jobs in the real run is
the largest.
The µs are real: medians from the end of one UNet call to the beginning of the next, with the variants run in turns.
The targets are for the denoising step, which does what diffusers' loop does; the tick adds intake, scheduling, metrics.
"""

# Key in the report, target, "at most" or "at least", description.
AIMS = (
    ("urgent_p99_wait_steps", 2.0, "at most", "urgent p99 wait, in steps"),
    ("urgent_p99_wait_over_fifo", 0.03, "at most", "urgent p99 wait, of FIFO's"),
    ("urgent_p99_passed_by_steps", 1.0, "at most", "steps without urgent jobs that one waited for, p99"),
    ("throughput_over_fifo", 0.99, "at least", "pictures per time, of FIFO's"),
    ("normal_p99_completion_over_fifo", 1.6, "at most", "normal p99 completion, of FIFO's"),
    ("useful_slot_share", 0.95, "at least", "slots used while jobs enough are there"),
    ("together_turns_over_shared", 0.67, "at most", "mean completion of four jobs in turns, of sharing each call"),
    (
        "step_overhead_over_diffusers",
        0.25,
        "at most",
        "denoising step's µs outside the UNet, per row, of diffusers' alone",
    ),
    ("step_overhead_over_diffusers_batch", 0.5, "at most", "the same, of diffusers' batch of as many"),
)


def holds(report: Mapping[str, Any], key: str, aim: float, sense: str) -> bool:
    """Return whether the report meets a target."""
    value: float = report[key]
    return value <= aim if sense == "at most" else value >= aim


def tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the tables: policies by load, overheads, targets."""
    first = report["headline"]
    yield _policies(f"load {first['load']}, {first['jobs']} jobs, real UNet and VAE", first["policies"])
    for load, run in report["long"].items():
        jobs = report["conditions"]["plan"]["long_jobs"]
        yield _policies(f"load {load}, {jobs} jobs, stand-ins for UNet and VAE", run["policies"])
    yield _call_sizes(report["by_call_size"])
    yield _overheads(report["overhead_us"], report["conditions"]["plan"]["overhead_rows"])
    yield _aims(report)


def _policies(title: str, policies: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{title}; times in UNet steps", title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    table.add_column("policy", no_wrap=True)
    for heading in (
        *(f"{lane.label}\nwait p50/p99" for lane in Lane),
        *(f"{lane.label}\ndone p50/p99" for lane in Lane),
        "pictures/\n1000 steps",
        "slots\nuseful",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in policies.items():
        classes = found["classes"]
        table.add_row(
            name,
            *(_pair(classes[lane.label], "wait") for lane in Lane),
            *(_pair(classes[lane.label], "completion") for lane in Lane),
            f"{found['pictures_per_1000_steps']:.1f}",
            f"{found['useful_slot_share']:.3f}",
        )
    return table


def _call_sizes(found: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"load {found['load']}, {found['jobs']} jobs, our policy on a card that one row keeps busy;"
        " times in steps of one row",
        title_justify="left",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    table.add_column("lane", no_wrap=True)
    for size in ("four rows a call", "one row a call"):
        for heading in ("wait p50/p99", "done p50/p99", "done mean"):
            table.add_column(f"{size}\n{heading}", justify="right", no_wrap=True)
    for lane in found["turns"]:
        table.add_row(
            lane,
            *(
                text
                for size in ("shared", "turns")
                for text in (
                    _pair(found[size][lane], "wait"),
                    _pair(found[size][lane], "completion"),
                    f"{found[size][lane]['mean_completion_steps']:.1f}",
                )
            ),
        )
    return table


def _pair(found: Mapping[str, Any], name: str) -> str:
    p50, p99 = found[f"p50_{name}_steps"], found[f"p99_{name}_steps"]
    return "–" if p50 is None else f"{p50:.1f} / {p99:.1f}"


def _overheads(us: Mapping[str, float], slots: int) -> Table:
    table = Table(title="µs outside the UNet", title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("variant", no_wrap=True)
    table.add_column("per step", justify="right")
    table.add_column("per row", justify="right")
    for variant, key, rows in (
        ("diffusers' pipeline, one picture", "diffusers_us_per_step", 1),
        (f"diffusers' pipeline, {slots} pictures", "diffusers_batch_us_per_step", slots),
        (f"denoising step, {slots} rows", "denoiser_us_per_step", slots),
        (f"engine's whole tick, {slots} rows", "engine_us_per_step", slots),
        (f"engine's whole tick, {slots} rows and a queue", "engine_queue_us_per_step", slots),
    ):
        table.add_row(variant, f"{us[key]:.0f}", f"{us[key] / rows:.0f}")
    return table


def _aims(report: Mapping[str, Any]) -> Table:
    table = Table(title="aims", title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("what", no_wrap=True)
    for heading in ("measured", "aim", ""):
        table.add_column(heading, justify="right")
    for key, aim, sense, what in AIMS:
        verdict = "[green]holds[/]" if holds(report, key, aim, sense) else "[red]missed[/]"
        table.add_row(what, f"{report[key]:.3f}", f"{sense} {aim:g}", verdict)
    for key, what in ALSO:
        table.add_row(what, f"{report[key]:.3f}", "–", "")
    return table
