"""One scaling policy: the ScaledObject's numbers, the simulation's, and the table of docs/capacity.md."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from devtools.autoscaling.__main__ import DEMANDS, DEMANDS_DISPATCH, HEADER, TARGETS, TARGETS_DISPATCH, row
from devtools.autoscaling.one_queue import OneQueue
from devtools.autoscaling.partitions import Partitions
from devtools.autoscaling.policy import (
    LARGE,
    LARGE_DISPATCH,
    SMALL,
    ZERO_DISPATCH,
    Autoscaler,
    Policy,
)
from devtools.capacity.simulated import modelled_limit
from devtools.capacity.sizing import HOP_S
from devtools.capacity.waits import BOUNDS_S, SHARES, quantile_waits, requests_per_worker
from tests.deploy.test_k8s import K8S, Object, build, only, rendered
from tests.deploy.tools import ROOT, documents, load

DOCUMENTED = (ROOT / "docs/capacity.md").read_text()


def policy_of(spec: dict[str, object]) -> Policy:
    """The policy that a ScaledObject describes."""
    assert isinstance(spec["advanced"], dict)
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    up, down = behavior["scaleUp"], behavior["scaleDown"]
    [up_policy], [down_policy] = up["policies"], down["policies"]
    assert up_policy["type"] == "Percent"
    fields: dict[str, object] = {
        "cooldown_s": spec.get("cooldownPeriod", 300),
        "min_workers": spec["minReplicaCount"],
        "max_workers": spec["maxReplicaCount"],
        "target": float(spec["advanced"]["scalingModifiers"]["target"]),
        "poll_s": spec["pollingInterval"],
        "up_window_s": up["stabilizationWindowSeconds"],
        "up_percent": up_policy["value"],
        "up_period_s": up_policy["periodSeconds"],
        "down_window_s": down["stabilizationWindowSeconds"],
        "down_period_s": down_policy["periodSeconds"],
        "down_workers": down_policy["value"] if down_policy["type"] == "Pods" else 1,
        "down_percent": down_policy["value"] if down_policy["type"] == "Percent" else 0,
    }
    return Policy(**fields)  # type: ignore[arg-type]


def rendered_with(components: list[str], folder: Path) -> list[Object]:
    """`many-gpus` with components, as in a site's kustomization."""
    copy = folder / "k8s"
    shutil.copytree(K8S, copy)
    site = copy / "with-components"
    site.mkdir()
    kustomization = {"resources": ["../overlays/many-gpus"], "components": components}
    (site / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return documents(build(site))


class TestOnePolicy:
    def test_the_base_is_the_small_policy(self) -> None:
        assert policy_of(load(ROOT / "k8s/base/scaled-object.yaml")["spec"]) == SMALL

    def test_many_gpus_are_the_large_policy(self) -> None:
        assert policy_of(only(rendered("overlays/many-gpus"), "ScaledObject")["spec"]) == LARGE

    def test_the_docs_name_its_target_and_have_a_row_for_each_demand(self) -> None:
        assert SMALL.target == LARGE.target
        assert f"**{SMALL.target:g}\nrequests of lag**" in DOCUMENTED
        table = DOCUMENTED.partition(HEADER)[2].partition("\n\n")[0].splitlines()[1:]
        assert [line.split(" | ")[:2] for line in table] == [
            [f"| {pictures:,}", f"{target:g}"] for pictures, _ in DEMANDS for target in TARGETS
        ]
        kept = {line.split(" | ")[1] for line in table if " | yes | " in line}
        missed = {line.split(" | ")[1] for line in table if " | **no** | " in line}
        assert max(kept - missed, key=float) == f"{SMALL.target:g}", "it is the largest that keeps them everywhere"

    @pytest.mark.parametrize(
        ("pictures", "policy", "target"),
        [*((30_000, SMALL, target) for target in TARGETS), (100_000, LARGE, LARGE.target)],
    )
    def test_the_table_is_what_the_simulation_prints(self, pictures: int, policy: Policy, target: float) -> None:
        assert row(pictures, policy, target) in DOCUMENTED


class TestOneQueue:
    """The policy behind dispatchers: derived from the model, kept by the simulation, written into k8s/dispatch."""

    @pytest.mark.parametrize(
        ("components", "policy"), [((), LARGE_DISPATCH), (("../scale-to-zero",), ZERO_DISPATCH)], ids=["four", "zero"]
    )
    def test_the_component_has_it(self, components: tuple[str, ...], policy: Policy, tmp_path: Path) -> None:
        objects = rendered_with(["../clients", "../dispatch", *components], tmp_path)
        assert policy_of(only(objects, "ScaledObject")["spec"]) == policy

    def test_the_target_lies_between_what_the_load_needs_and_what_the_bound_allows(self) -> None:
        """It is above what each worker has where the fleet is at its limit, and below where the mean wait is 10 s.

        Nearly all that wait are normal requests, which are 0.6 of the pictures that workers draw.
        """
        service_s = 3.0
        sizes = (LARGE_DISPATCH.min_workers, 8, 13, LARGE_DISPATCH.max_workers)
        at_limits = [requests_per_worker(modelled_limit(n, service_s, HOP_S), n, service_s) for n in sizes]
        assert all(at_limit < LARGE_DISPATCH.target for at_limit in at_limits[1:])
        assert LARGE_DISPATCH.target < 1 + BOUNDS_S[-1] * SHARES[-1] / service_s
        assert LARGE_DISPATCH.target > LARGE.target, "one queue needs fewer workers for the same waits"

    def test_the_docs_have_a_row_for_each_demand(self) -> None:
        text = DOCUMENTED.partition(HEADER)[2].partition(HEADER)[2]
        table = text.partition("\n\n")[0].splitlines()[1:]
        assert [line.split(" | ")[:2] for line in table] == [
            [f"| {pictures:,}", f"{target:g}"] for pictures, _ in DEMANDS_DISPATCH for target in TARGETS_DISPATCH
        ]
        for pictures, _ in DEMANDS_DISPATCH:
            rows = [line.split(" | ") for line in table if line.startswith(f"| {pictures:,} ")]
            [*kept] = (cells for cells in rows if cells[3] == "yes")
            cheapest = min(kept, key=lambda cells: float(cells[4]))
            assert cheapest[1] == f"{LARGE_DISPATCH.target:g}", "no other takes fewer workers a day"
        assert f"**{LARGE_DISPATCH.target:g} requests**" in DOCUMENTED

    def test_the_table_is_what_the_simulation_prints(self) -> None:
        assert row(100_000, LARGE_DISPATCH, LARGE_DISPATCH.target, OneQueue) in DOCUMENTED

    def test_up_from_nothing_and_down_to_nothing_keeps_the_bounds(self) -> None:
        seen = OneQueue(ZERO_DISPATCH).run(40_000, day_s=8 * 3600, quiet_s=3 * 3600)
        assert seen.sizes[0] == seen.sizes[-1] == 0
        assert max(seen.sizes) >= 8
        assert seen.keeps_bounds, seen.waits_s
        # Only those of the first minutes wait for a node, the image and the weights.
        assert 0 < len(seen.cold_waits_s) < 10
        assert seen.left == 0
        urgent, high, normal = seen.waits_s
        assert f"goes from 0 to {max(seen.sizes)} workers" in DOCUMENTED
        assert f"(p95 {urgent:.1f}, {high:.1f} and {normal:.1f} s)" in DOCUMENTED

    def test_a_target_of_a_long_queue_does_not(self) -> None:
        seen = OneQueue(replace(ZERO_DISPATCH, target=6.0)).run(10_000, day_s=2 * 3600)
        assert not seen.keeps_bounds

    def test_with_a_fixed_number_of_workers_waits_are_those_of_the_capacity_model(self) -> None:
        workers, load, service_s = 8, 0.85, 3.0
        fixed = replace(LARGE_DISPATCH, min_workers=workers, max_workers=workers)
        seen = OneQueue(fixed, delivery_s=0.0).run(15_000, 1.0, day_s=15_000 * service_s / load / workers)
        model = quantile_waits(load * workers / service_s, service_s, servers=workers)
        assert seen.load == pytest.approx(load, rel=0.03)
        for wait, modelled in zip(seen.waits_s, model, strict=True):
            assert wait == pytest.approx(modelled + HOP_S, rel=0.2, abs=0.45 * service_s)


class TestAutoscaler:
    def test_it_asks_for_the_lag_by_the_target(self) -> None:
        scaler = Autoscaler(replace(SMALL, target=2.0, up_window_s=0, up_percent=1000))
        assert scaler.decide(0, 9, 1) == 5

    def test_a_difference_within_the_tolerance_is_none(self) -> None:
        scaler = Autoscaler(replace(LARGE, target=1.0))
        assert scaler.decide(0, 21, 20) == 20

    def test_a_short_peak_does_not_count(self) -> None:
        scaler = Autoscaler(SMALL)
        seen = [scaler.decide(at, lag, 1) for at, lag in ((0, 1), (15, 9), (30, 1))]
        assert seen == [1, 1, 1]

    def test_up_it_doubles_in_a_minute_and_down_it_takes_one_in_five_minutes(self) -> None:
        scaler = Autoscaler(replace(SMALL, max_workers=100))
        workers, by_time = 1, {}
        for at in range(0, 3600, 15):
            workers = by_time[at] = scaler.decide(at, 500 if at < 300 else 0, workers)
        assert [by_time[at] for at in (0, 45, 60, 120, 180)] == [2, 2, 4, 8, 16]
        most = by_time[285]
        assert by_time[885] == most, "for ten minutes the last wish of the peak holds"
        assert [by_time[at] for at in (900, 1185, 1200, 1500)] == [most - 1, most - 1, most - 2, most - 3]

    def test_the_first_worker_starts_at_any_lag_and_all_go_when_there_was_none_for_long(self) -> None:
        scaler = Autoscaler(ZERO_DISPATCH)
        assert [scaler.decide(at, lag, 0) for at, lag in ((0, 0), (15, 1))] == [0, 1]
        assert [scaler.decide(at, 0, 1) for at in (30, 900)] == [1, 1]
        assert scaler.decide(15 + ZERO_DISPATCH.cooldown_s, 0, 1) == 0

    def test_it_stays_within_its_limits(self) -> None:
        scaler = Autoscaler(replace(SMALL, up_window_s=0, up_percent=10_000))
        assert scaler.decide(0, 10_000, 1) == SMALL.max_workers
        assert Autoscaler(LARGE).decide(0, 0, 4) == 4


class TestFleet:
    def test_with_a_fixed_number_of_workers_waits_are_those_of_the_capacity_model(self) -> None:
        workers, load = 6, 0.6
        fixed = replace(SMALL, min_workers=workers, max_workers=workers)
        seen = Partitions(fixed, delivery_s=0.0).run(workers * load / 3.0 * 86_400, peak_factor=1.0)
        assert seen.load == pytest.approx(load, rel=0.03)
        assert seen.mean_workers == pytest.approx(workers)
        # The model's tail is short of a seldom busy server's by at most the job that is being served.
        for wait, model in zip(seen.waits_s, quantile_waits(load / 3.0, 3.0), strict=True):
            assert wait == pytest.approx(model, rel=0.2, abs=0.45 * 3.0)

    def test_the_same_seed_gives_the_same_day(self) -> None:
        first, second, other = (Partitions(SMALL, seed=seed).run(2_000) for seed in (3, 3, 4))
        assert first == second != other
