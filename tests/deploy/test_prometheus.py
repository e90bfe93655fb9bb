"""Alert rules and their unit tests in promtool, names and types of metrics, and the copy for the operator."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, generate_latest

from tests.deploy.tools import ROOT, load, program, run
from worker.errors import ErrorCode
from worker.job import Lane
from worker.settings import Settings
from worker.telemetry import metrics

PROMETHEUS = ROOT / "deploy/prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
REQUIRED = (
    "FailureBudgetFastBurn", "FailureBudgetSlowBurn", "WaitsBeyondBound", "LagGrowing", "UrgentPartitionsUnowned",
    "DeadLetters", "RequestsLost", "CrashLoop", "OutOfMemoryRung", "StoreFailing", "NoProgress",
    "WorkersGone", "LagUnknown", "KafkaDown", "PublishingStuck", "TargetDown", "AutoscalerAtMaximum", "AutoscalerBlind",
    "GpuErrors", "GpusIdle", "GatewayFailing", "GatewayNotReady", "GatewayGone", "WebhookReceiverDown",
    "WebhooksGivenUp", "WebhooksBehind", "WebhooksGone", "DispatcherGone", "DispatchNobodyReports",
    "DispatchWaitsLong", "DispatchUnbalanced",
)  # fmt: skip


def promtool() -> str:
    return program("promtool", "Debian's package prometheus")


def rules(file: Path = ALERTS) -> list[dict[str, Any]]:
    return [rule for group in load(file)["groups"] for rule in group["rules"]]


def alerts(file: Path = ALERTS) -> list[dict[str, Any]]:
    return [rule for rule in rules(file) if "alert" in rule]


class TestPromtool:
    def test_rules_are_valid(self) -> None:
        assert f"{len(rules())} rules found" in run(promtool(), "check", "rules", ALERTS)

    def test_the_scrape_configuration_is_valid(self) -> None:
        run(promtool(), "check", "config", PROMETHEUS / "prometheus.yml")

    @pytest.mark.slow
    def test_every_alert_does_what_its_tests_say(self) -> None:
        run(promtool(), "test", "rules", *TESTS)

    def test_a_rule_that_never_fires_fails_its_test(self, tmp_path: Path) -> None:
        (tmp_path / "tests").mkdir()
        (tmp_path / "alerts.yml").write_text(ALERTS.read_text().replace("store_up == 0", "store_up == 7"))
        copy = tmp_path / "tests" / "workers.yml"
        copy.write_text((PROMETHEUS / "tests/workers.yml").read_text())
        with pytest.raises(AssertionError, match="StoreFailing"):
            run(promtool(), "test", "rules", copy)

    def test_a_fleet_that_was_scaled_to_zero_pages_nobody(self, tmp_path: Path) -> None:
        """All its series have ended, and no request waits."""
        labels = 'consumergroup="sdxl-worker", topic_prefix="shop.", job="sdxl-worker", instance="w"'
        urgent = "shop.generation.requests.urgent"
        ended = [
            f"sdxl_worker_ready{{{labels}}}",
            f"sdxl_worker_kafka_up{{{labels}}}",
            f"sdxl_worker_store_up{{{labels}}}",
            f"process_start_time_seconds{{{labels}}}",
            f'sdxl_worker_assigned_partitions{{{labels}, topic="{urgent}"}}',
            f'image_generation_requests_total{{{labels}, priority="urgent"}}',
            'up{job="sdxl-worker", instance="w"}',
        ]
        series = [{"series": name, "values": "1x30 stale"} for name in ended]
        lag = f'kafka_consumergroup_lag{{consumergroup="sdxl-worker", topic="{urgent}", partition="0"}}'
        series.append({"series": lag, "values": "0x700"})
        names = sorted({alert["alert"] for alert in alerts()})
        checks = [
            {"eval_time": at, "alertname": name, "exp_alerts": []} for at in ("45m", "90m", "11h") for name in names
        ]
        test = {
            "rule_files": [str(ALERTS)],
            "evaluation_interval": "5m",
            "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": checks}],
        }
        file = tmp_path / "zero.yml"
        file.write_text(yaml.safe_dump(test))
        run(promtool(), "test", "rules", file)

    def test_metrics_are_well_named(self) -> None:
        fill()
        done = subprocess.run(
            [promtool(), "check", "metrics"], input=generate_latest(REGISTRY), capture_output=True, check=False
        )
        assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")


def fill() -> None:
    """Give every metric with labels a series, as a worker under load has."""
    metrics.PHASE.labels("step").observe(0.1)
    metrics.QUEUE.labels("urgent", "waiting").set(1)
    metrics.OLDEST.labels("urgent").set(1)
    metrics.MEMORY.labels("free").set(1)
    metrics.GPU_BUSY.labels("promtool").set(0.5)
    metrics.LAG.labels("g", "t", 0).set(1)
    metrics.LAG_SECONDS.labels("g", "t", 0).set(1)
    metrics.ASSIGNED.labels("t").set(1)
    metrics.GPU_ANSWERS.labels("promtool").set(1)
    metrics.GPU_MEMORY_ERRORS.labels("promtool").set(0)
    metrics.HTTP_REQUESTS.labels("/generate", "202").inc()
    metrics.HTTP_SECONDS.labels("/generate").observe(0.1)
    metrics.GATEWAY_JOBS.labels("urgent", "waiting").set(1)
    metrics.DISPATCH_WAITING.labels("urgent").set(1)
    metrics.DISPATCH_OLDEST.labels("urgent").set(1)
    metrics.DISPATCH_WORKERS.labels("reporting").set(1)
    metrics.DISPATCH_WORK.labels("most").set(1)
    metrics.MODEL.info({"model": "toy"})


class TestAlerts:
    def test_all_that_operators_asked_for_are_there(self) -> None:
        assert set(REQUIRED) <= {alert["alert"] for alert in alerts()}

    @pytest.mark.parametrize("alert", alerts(), ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
    def test_each_says_how_bad_what_and_where_to_read_on(self, alert: dict[str, Any]) -> None:
        assert alert["labels"]["severity"] in ("critical", "warning")
        notes = alert["annotations"]
        assert notes.keys() == {"summary", "description", "runbook_url"}
        assert notes["runbook_url"].endswith(f"/docs/runbook.md#{alert['alert'].lower()}")

    def test_each_is_tested_firing_and_not_firing(self) -> None:
        firing: set[str] = set()
        quiet: set[str] = set()
        for file in TESTS:
            for test in load(file)["tests"]:
                for check in test.get("alert_rule_test", []):
                    (firing if check["exp_alerts"] else quiet).add(check["alertname"])
        names = {alert["alert"] for alert in alerts()}
        assert firing == names
        assert quiet == names

    def test_each_names_a_fleet_or_a_process(self) -> None:
        """An expression over all fleets is quiet about one while another is well."""
        whole = r"\b(?:sum|max|min|count|group)\s*\("
        for rule in rules():
            assert not re.search(whole, rule["expr"]), f"{rule.get('alert') or rule['record']} has no `by`"
            assert "absent(" not in rule["expr"], "absent() knows no fleet"

    def test_the_failures_that_spend_the_budget_are_the_services_own(self) -> None:
        [codes] = {codes for rule in rules() for codes in re.findall(r'error_code=~"([^"]+)"', rule["expr"])}
        theirs = {"invalid_request", "unknown_lora", "content_rejected", "cancelled"}
        assert set(codes.split("|")) == {code.value for code in ErrorCode} - theirs

    def test_bounds_are_the_guides_and_are_edges_of_buckets(self) -> None:
        edges = {
            sample.labels["le"]
            for metric in metrics.WAIT.collect()
            for sample in metric.samples
            if "le" in sample.labels
        }
        bounds = {}
        for rule in rules():
            for lane, edge in re.findall(r'wait_seconds_bucket\{priority="(\w+)",le="([\d.]+)"', rule["expr"]):
                assert edge in edges
                assert rule["labels"]["bound"] == f"{float(edge):g}s"
                bounds[lane] = float(edge)
        assert bounds == {"urgent": 2.0, "high": 5.0, "normal": 10.0}
        config = Settings()
        for lane, bound in (
            ("urgent", config.urgent_wait_s),
            ("high", config.high_wait_s),
            ("normal", config.normal_wait_s),
        ):
            # The scheduler begins to help a class at the lower end of the guide's range, the alert is its upper end.
            assert bound <= bounds[lane]
        assert bounds.keys() == {lane.label for lane in Lane}


def test_one_line_gives_the_runbook_another_address(tmp_path: Path) -> None:
    [line] = re.findall(r"^\$ (grep -rl git\.example\.com .*)$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE)
    for folder in ("deploy/prometheus", "k8s/base"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    subprocess.run(["bash", "-euo", "pipefail", "-c", line], cwd=tmp_path, check=True)
    # Alerts and their tests change alike, so that what holds of those in the repository holds of these.
    for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
        before = (ROOT / file.relative_to(tmp_path)).read_text()
        assert "git.example.com" not in file.read_text()
        assert file.read_text() == before.replace("git.example.com", "git.your.org/team"), file
    copy = tmp_path / "deploy/prometheus"
    urls = {alert["annotations"]["runbook_url"] for alert in alerts(copy / "alerts.yml")}
    assert {url.partition("/blob/")[0] for url in urls} == {"https://git.your.org/team/sdxl-worker"}
    operators = load(tmp_path / "k8s/base" / "prometheus-rule.yaml")["spec"]["groups"]
    assert operators == load(copy / "alerts.yml")["groups"]


def test_the_operators_rule_is_the_same() -> None:
    spec = importlib.util.spec_from_file_location("write_rule", PROMETHEUS / "write_rule.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.RULE.read_text() == module.render(ALERTS.read_text()), "run deploy/prometheus/write_rule.py"
    assert load(module.RULE)["spec"]["groups"] == load(ALERTS)["groups"]
