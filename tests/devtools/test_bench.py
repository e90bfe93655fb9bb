"""The scheduling benchmark: policies, arrivals, figures, and a small run. No timing is asserted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from devtools.bench.schedule.figures import passed_by, percentile
from devtools.bench.schedule.overhead import headline
from devtools.bench.schedule.plot import draw
from devtools.bench.schedule.policies import FIFO, NAMES, OURS, PRIORITY, STEP, make
from devtools.bench.schedule.show import AIMS, ALSO
from devtools.bench.schedule.simulate import Step, Visit
from devtools.bench.schedule.story import Story, lines
from devtools.bench.schedule.traffic import backlog, poisson
from worker.cli import app
from worker.engine.cost import Group, Stage
from worker.engine.schedule.rows import Segment
from worker.engine.schedule.scheduler import StepScheduler
from worker.job import Lane

SMALL = Group(Stage.BASE, 8, 8)
WIDE = Group(Stage.BASE, 8, 12)
BOUNDS = (10.0, 20.0, 50.0)


def filled(policy: str, slots: int, rows: Sequence[tuple[str, Lane]], steps: int = 2) -> StepScheduler:
    scheduler = make(policy, BOUNDS)
    scheduler.resize(slots)
    for key, lane in rows:
        scheduler.submit(key, lane, [Segment(SMALL, steps)], 0.0)
    return scheduler


def run(scheduler: StepScheduler, steps: int) -> list[tuple[object, ...]]:
    batches = []
    for _ in range(steps):
        batches.append(scheduler.choose(0.0))
        scheduler.advance(batches[-1])
        scheduler.check_invariants()
    return batches


MIXED = [("n", Lane.NORMAL), ("h", Lane.HIGH), ("u", Lane.URGENT)]


@pytest.mark.parametrize(
    ("policy", "first", "then"),
    [
        (FIFO, ("n", "h"), ("u",)),
        (PRIORITY, ("u", "h"), ("n",)),
        (STEP, ("u", "h"), ("n",)),
        (OURS, ("u", "h"), ("n",)),
    ],
)
def test_the_first_batch_is_the_policys(policy: str, first: tuple[str, ...], then: tuple[str, ...]) -> None:
    batches = run(filled(policy, 2, MIXED), 3)
    assert batches == [first, first, then]


@pytest.mark.parametrize("policy", [FIFO, PRIORITY])
def test_a_batch_takes_nobody_in_until_it_is_done(policy: str) -> None:
    scheduler = filled(policy, 2, [("a", Lane.NORMAL)])
    assert run(scheduler, 1) == [("a",)]
    scheduler.submit("u", Lane.URGENT, [Segment(SMALL, 1)], 0.0)
    assert run(scheduler, 2) == [("a",), ("u",)]


@pytest.mark.parametrize("policy", [FIFO, PRIORITY])
def test_a_batch_shrinks_to_its_longest_row(policy: str) -> None:
    scheduler = filled(policy, 2, [("short", Lane.NORMAL)], steps=1)
    scheduler.submit("long", Lane.NORMAL, [Segment(SMALL, 2)], 0.0)
    scheduler.submit("next", Lane.NORMAL, [Segment(SMALL, 1)], 0.0)
    assert run(scheduler, 3) == [("short", "long"), ("long",), ("next",)]


def test_step_level_fills_a_free_slot_by_class_and_preempts_nobody() -> None:
    scheduler = filled(STEP, 2, [("a", Lane.NORMAL), ("b", Lane.NORMAL), ("c", Lane.NORMAL)])
    assert run(scheduler, 1) == [("a", "b")]
    scheduler.submit("u", Lane.URGENT, [Segment(SMALL, 1)], 0.0)
    assert run(scheduler, 2) == [("a", "b"), ("u", "c")]


def test_ours_preempts() -> None:
    scheduler = filled(OURS, 2, [("a", Lane.NORMAL), ("b", Lane.NORMAL)])
    run(scheduler, 1)
    scheduler.submit("u", Lane.URGENT, [Segment(SMALL, 1)], 0.0)
    assert run(scheduler, 1) == [("u", "a")]


@pytest.mark.parametrize("policy", NAMES)
def test_a_batch_is_of_one_shape(policy: str) -> None:
    scheduler = filled(policy, 3, [("a", Lane.NORMAL)])
    scheduler.submit("wide", Lane.NORMAL, [Segment(WIDE, 1)], 0.0)
    scheduler.submit("b", Lane.NORMAL, [Segment(SMALL, 2)], 0.0)
    assert run(scheduler, 3) == [("a", "b"), ("a", "b"), ("wide",)]


@pytest.mark.parametrize("policy", [FIFO, PRIORITY, STEP])
def test_only_ours_guarantees_a_share(policy: str) -> None:
    scheduler = filled(policy, 1, [("u", Lane.URGENT)], steps=1000)
    run(scheduler, 1)
    scheduler.submit("n", Lane.NORMAL, [Segment(SMALL, 1)], 0.0)
    assert all(scheduler.choose(1e6) == ("u",) and not scheduler.advance(("u",)) for _ in range(100))


def test_arrivals_are_seeded_ordered_and_mixed() -> None:
    arrivals = poisson(1, 5000, 2.0)
    assert arrivals == poisson(1, 5000, 2.0)
    assert arrivals != poisson(2, 5000, 2.0)
    times = [arrival.at for arrival in arrivals]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(2500, rel=0.1)
    shares = [sum(arrival.lane is lane for arrival in arrivals) / 5000 for lane in Lane]
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=0.03)


def test_another_rate_brings_the_same_jobs() -> None:
    slow, fast = poisson(0, 50, 1.0), poisson(0, 50, 4.0)
    assert [arrival.lane for arrival in slow] == [arrival.lane for arrival in fast]
    assert slow[-1].at == pytest.approx(4 * fast[-1].at)


def test_a_backlog_is_there_at_once() -> None:
    assert {arrival.at for arrival in backlog(0, 20)} == {0.0}


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (99, 99), (100, 100), (0, 1)])
def test_percentiles_are_by_nearest_rank(percent: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value


def test_p99_of_few_values_is_the_largest() -> None:
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0


def test_overheads_are_per_row() -> None:
    us = {
        "diffusers_us_per_step": 100.0,
        "diffusers_batch_us_per_step": 200.0,
        "denoiser_us_per_step": 80.0,
        "engine_us_per_step": 120.0,
    }
    assert headline(us, 4) == pytest.approx(
        {
            "step_overhead_over_diffusers": 0.2,
            "step_overhead_over_diffusers_batch": 0.4,
            "tick_overhead_over_diffusers": 0.3,
            "tick_overhead_over_diffusers_batch": 0.6,
        }
    )


def test_a_trace_tells_changes_only() -> None:
    steps = [Step(0.0, ("a", "b")), Step(1.0, ("a", "b")), Step(2.0, ("a", "u")), Step(3.0, ("a", "u"))]
    told = lines(Story(steps, came=1.5, started=2.0, step_s=1.0))
    assert len(told) == 4
    assert "arrives, in the middle of step 2" in told[1]
    assert "step   3  a  +u  (-b)" in told[2]
    assert "0.50 step times" in told[3]
    assert "0 steps were begun without it" in told[3]


def test_a_trace_counts_the_steps_that_passed_the_urgent_job_by() -> None:
    steps = [Step(float(at), ("a",)) for at in range(4)] + [Step(4.0, ("u",))]
    assert Story(steps, came=1.5, started=4.0, step_s=1.0).steps_between == 2


def test_an_urgent_job_is_passed_by_by_steps_of_others_only_while_it_waits() -> None:
    names = ("high-0", "high-0", "urgent-1", "normal-2", "urgent-3", "high-0")
    steps = [Step(float(at), (name,)) for at, name in enumerate(names)]
    waited = Visit("urgent-3", Lane.URGENT, arrived=0.5, started=4.0)
    at_once = Visit("urgent-1", Lane.URGENT, arrived=1.0, started=2.0)
    other = Visit("high-0", Lane.HIGH, arrived=0.0, started=5.0)
    assert passed_by([waited, at_once, other], steps) == [2, 0]


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "images" / "waits.png"
    draw({name: {lane.label: [0.0, 1.0, 20.0] for lane in Lane} for name in NAMES}, "waits", path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "new" / "schedule.json"


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute of work, on a machine that may be busy
def test_a_small_run_writes_every_key(out: Path) -> None:
    # Of this seed, the first eight jobs are of all lanes, and two of them urgent.
    size = ["--seed", "7", "--jobs", "8", "--long-jobs", "8", "--rounds", "1"]
    arguments = ["bench", "schedule", *size, "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    for key in [key for key, *_ in AIMS] + [key for key, _ in ALSO]:
        assert isinstance(report[key], float), key
    assert report["stand_ins_give_the_same_schedule"] is True
    assert set(report["headline"]["policies"]) == set(NAMES)
    assert set(report["long"]) == {"0.5", "0.8", "0.9"}
    assert report["together_turns_steps"] == 75.0, "30, 60, 90 and 120 steps"
    assert report["together_shared_steps"] == 120.0
    assert set(report["by_call_size"]["turns"]) == {"urgent", "high", "normal", "all"}
    assert report["trace"]["steps_begun_without_it"] == 0
    assert {"processor", "versions", "plan", "prices_s"} <= set(report["conditions"])
    for title in ("load 0.8, 8 jobs, real UNet and VAE", "µs outside the UNet", "aims"):
        assert title in result.output
