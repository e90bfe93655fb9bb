"""The tables of docs/capacity.md, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from devtools.capacity.simulated import Limits
from devtools.capacity.sizing import Gpu, Plan, plan

LIMITS_HEADER = """\
| workers | without dispatch: model | simulated | with dispatch: model | simulated |
| ---: | ---: | ---: | ---: | ---: |"""


def fleets(gpu: Gpu, peak_factor: float, days: Sequence[int]) -> str:
    """The fleet for each demand at its peak; a demand in pictures a day makes a row."""
    lines = [
        "| pictures a day | GPUs: without dispatch | with | load: without | with "
        "| p95 wait, urgent, high, normal: without | with | partitions: without | with |",
        "| ---: | ---: | ---: | ---: | ---: | --- | --- | ---: | ---: |",
    ]
    for day in days:
        without, with_ = (plan(day, gpu, peak_factor, dispatch=dispatch) for dispatch in (False, True))
        lines.append(
            f"| {day:,} | {without.gpus:,} | {with_.gpus:,} | {without.load:.0%} | {with_.load:.0%} "
            f"| {_waits(without)} | {_waits(with_)} | {without.partitions:,} | {with_.partitions:,} |"
        )
    return "\n".join(lines)


def dollars(gpu: Gpu, peak_factor: float, days: Sequence[int]) -> str:
    """What these fleets cost, fixed and scaled by the hour; saved is a share of the scaled fleet's dollars."""
    lines = [
        "| pictures a day | $ a day, fixed: without dispatch | with | $ a day, scaled: without | with | saved "
        "| $ a picture, scaled: without | with |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for day in days:
        without, with_ = (plan(day, gpu, peak_factor, dispatch=dispatch) for dispatch in (False, True))
        scaled, scaled_with = (
            plan(day, gpu, peak_factor, scaled=True, dispatch=dispatch) for dispatch in (False, True)
        )
        lines.append(
            f"| {day:,} | {without.usd_per_day:,.2f} | {with_.usd_per_day:,.2f} "
            f"| {scaled.usd_per_day:,.2f} | {scaled_with.usd_per_day:,.2f} "
            f"| {1 - scaled_with.usd_per_day / scaled.usd_per_day:.0%} "
            f"| {scaled.usd_per_picture:.5f} | {scaled_with.usd_per_picture:.5f} |"
        )
    return "\n".join(lines)


def savings(gpu: Gpu, peak_factor: float, days: Sequence[int]) -> str:
    """What a dispatcher saves, in short: GPUs at the peak, and dollars when scaled by the hour."""
    lines = [
        "| pictures a day | GPUs: without dispatch | with | $ a day, scaled: without | with | saved |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for day in days:
        without, with_ = (plan(day, gpu, peak_factor, scaled=True, dispatch=dispatch) for dispatch in (False, True))
        lines.append(
            f"| {day:,} | {without.gpus:,} | {with_.gpus:,} | {without.usd_per_day:,.2f} | {with_.usd_per_day:,.2f} "
            f"| {1 - with_.usd_per_day / without.usd_per_day:.0%} |"
        )
    return "\n".join(lines)


def limit_rows(found: Iterable[Limits]) -> Iterator[str]:
    """One row for each fleet, as soon as it is simulated."""
    for one in found:
        yield (
            f"| {one.workers:,} | {one.without:.0%} | {one.without_simulated:.0%} "
            f"| {one.dispatch:.0%} | {one.dispatch_simulated:.0%} |"
        )


def _waits(of: Plan) -> str:
    return ", ".join(f"{wait:.1f} s" for wait in of.waits_s)
