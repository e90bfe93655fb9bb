"""What the gateway counts, who may read it, and that no label holds what a stranger sends."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.asking import ask
from tests.gateway.world import GOOD, TOKEN, World, make_world
from worker.gateway import server

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(world: World) -> Samples:
    answer = ask(world, "GET", "/metrics", TOKEN)
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    fleet = {"consumergroup": "sdxl-worker", "topic_prefix": "shop."}
    return samples.get((name, frozenset({**fleet, **labels}.items())), 0.0)


def closed_world() -> World:
    return make_world(tokens=f"web:{TOKEN}", kafka_topic_prefix="shop.")


def test_requests_are_counted_by_path_and_answer() -> None:
    world = closed_world()
    before = scrape(world)
    assert ask(world, "POST", "/generate", TOKEN, json=GOOD).status_code == 202
    assert ask(world, "POST", "/generate", TOKEN, json={}).status_code == 422
    assert ask(world, "GET", "/status/nobody", TOKEN).status_code == 404
    after = scrape(world)

    def more(route: str, status: str) -> float:
        name, labels = "sdxl_gateway_requests_total", {"route": route, "status": status}
        return value(after, name, **labels) - value(before, name, **labels)

    assert (more("/generate", "202"), more("/generate", "422"), more("/status/{job_id}", "404")) == (1, 1, 1)
    name = "sdxl_gateway_request_seconds_count"
    assert value(after, name, route="/generate") - value(before, name, route="/generate") == 2
    assert value(after, "sdxl_gateway_jobs", priority="normal", state="waiting") == 1


def test_a_wrong_token_is_counted_and_reads_nothing() -> None:
    world = closed_world()
    before = value(scrape(world), "sdxl_gateway_refused_tokens_total")
    for token in (None, "another-token-of-16"):
        answer = ask(world, "GET", "/metrics", token)
        assert answer.status_code == 401
        assert "sdxl_gateway" not in answer.text
    assert value(scrape(world), "sdxl_gateway_refused_tokens_total") - before == 2


def test_a_strangers_paths_are_one_label() -> None:
    world = closed_world()
    for path in ("/wp-login.php", "/.env", "/status/a/b"):
        ask(world, "GET", path, TOKEN)
    routes = {label for _, labels in scrape(world) for name, label in labels if name == "route"}
    assert "other" in routes
    assert not any("wp-login" in route or ".env" in route for route in routes)


def test_the_readiness_is_a_gauge() -> None:
    world = closed_world()
    assert value(scrape(world), "sdxl_gateway_ready") == 1
    world.progress.trouble = "Kafka does not answer"
    assert value(scrape(world), "sdxl_gateway_ready") == 0


def test_a_second_port_wants_no_token() -> None:
    world = make_world(gateway_metrics_port=0)
    probes = server._serve_metrics(world.settings, world.state)
    assert probes is not None
    try:
        address = f"http://127.0.0.1:{probes.server_port}"
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        assert "sdxl_gateway_ready{" in page
        assert "\nsdxl_worker_ready" not in page, "a gateway is no worker that is not ready"
        with urllib.request.urlopen(f"{address}/ready", timeout=10) as answer:
            assert answer.status == 200
    finally:
        probes.shutdown()
        probes.server_close()
