"""What each kind of process shows on /metrics, and under which labels."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, generate_latest

from worker.telemetry import metrics
from worker.telemetry.exposition import Exposition, Role, owner_of


def page(role: Role, **fleet: str) -> str:
    return generate_latest(Exposition(role, **fleet)).decode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("role", "shown", "hidden"),
    [
        ("worker", "sdxl_worker_ready", ("sdxl_worker_webhooks_ready", "sdxl_gateway_ready")),
        ("webhooks", "sdxl_worker_webhooks_ready", ("sdxl_worker_ready", "sdxl_gateway_ready", "image_generation_")),
        ("dispatch", "sdxl_worker_ready", ("sdxl_worker_webhooks_ready", "sdxl_gateway_ready")),
        ("gateway", "sdxl_gateway_ready", ("sdxl_worker_ready", "sdxl_worker_webhooks_ready", "image_generation_")),
    ],
)
def test_a_process_shows_its_own_metrics_only(role: Role, shown: str, hidden: tuple[str, ...]) -> None:
    text = page(role)
    assert f"\n{shown} " in text
    assert "\nprocess_start_time_seconds " in text
    assert not any(f"\n{name}" in text for name in hidden)


def test_every_sample_tells_its_fleet() -> None:
    text = page("worker", group="g", topic_prefix="shop.")
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert samples
    # Lag has a consumer group of its own, and other tests of this process may have set some.
    assert [line for line in samples if 'consumergroup="' not in line or 'topic_prefix="shop."' not in line] == []
    assert [line for line in samples if 'consumergroup="g"' not in line and not line.startswith("kafka_")] == []


def test_a_metrics_own_label_wins_and_an_empty_one_is_left_out() -> None:
    registry = CollectorRegistry()
    Gauge("kafka_consumergroup_lag", "Lag", ["consumergroup"], registry=registry).labels("own").set(3)
    Counter("sdxl_worker_things", "Things", registry=registry).inc()
    text = generate_latest(Exposition("worker", "g", "", registry)).decode()
    assert 'kafka_consumergroup_lag{consumergroup="own"} 3.0' in text
    assert 'sdxl_worker_things_total{consumergroup="g"} 1.0' in text
    assert "topic_prefix" not in text


def test_a_scrape_may_ask_for_one_name() -> None:
    found = Exposition("worker", "g").restricted_registry(["sdxl_worker_ready"])
    assert [family.name for family in found.collect()] == ["sdxl_worker_ready"]


def test_every_metric_that_is_declared_has_an_owner() -> None:
    for name in vars(metrics).values():
        if isinstance(name, Gauge | Counter):
            assert owner_of(name._name) is not None
    assert {owner_of(family.name) for family in REGISTRY.collect() if family.name.startswith("process_")} <= {None}
