"""A real Prometheus scrapes a real worker under load; every panel's query and every alert's metrics have data.

The worker runs the toy SDXL on librdkafka's broker, a gateway and a deliverer of webhooks beside it. NVML is a stand-in
because there is no GPU (stand_in_gpu.py), and so is what other people's programs export (stand_in_cluster.py). A
dispatcher's page is made by its own code from reports and requests that are made up (stand_in_dispatcher.py). All other
values come from the real processes.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import math
import os
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from devtools.local.embedded import EmbeddedBroker
from devtools.local.process import ChildProcess, free_port
from devtools.local.seaweedfs import SeaweedFS
from devtools.models.tiny import write_tiny
from tests.deploy.stand_in_cluster import serving
from tests.deploy.stand_in_dispatcher import dispatching
from tests.deploy.test_prometheus import ALERTS, rules
from tests.deploy.tools import ROOT, program
from tests.harness import EMBEDDED_SETTINGS, Broker, Client, Site, WorkerProcess
from worker.errors import ErrorCode
from worker.topics import Topics

GRAFANA = ROOT / "deploy/grafana"
BOARDS = {path.name: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
DATA_WITHIN_S = 60.0
# `$__rate_interval` at this test's scrape interval of one second, long enough for a slow machine.
RATE_INTERVAL = "30s"
LANES = ("urgent", "high", "normal")
# What a gateway has only once it has failed.
UNSEEN = {'sdxl_gateway_requests_total{status=~"5.."}'}
# No worker behind dispatchers runs here, so nothing owns partitions of work topics.
DISPATCH = 'sdxl_worker_assigned_partitions{topic=~".*generation[.]work[.]'

Expression = tuple[str, str]


def panel_queries() -> list[Expression]:
    return [
        (f"{name}: {panel['title']} {target['refId']}", target["expr"])
        for name, board in BOARDS.items()
        for panel in board["panels"]
        for target in panel["targets"]
    ]


def selectors(expression: str) -> set[str]:
    """The metrics with their matchers that an expression reads, less the constants and functions."""
    found = re.findall(
        r"\b(?:sdxl_worker|sdxl_gateway|image_generation|kafka|process|kube|keda)_[a-zA-Z0-9_:]*(?:\{[^}]*\})?",
        expression,
    )
    return {selector for selector in found if ":" not in selector.split("{")[0]}


class Prometheus:
    """The server's HTTP API."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **arguments: str) -> Any:
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]

    def values(self, expression: str) -> list[float]:
        """What an expression gives now, less what is no number."""
        query = expression.replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*").replace("$group", ".*")
        numbers = [float(sample["value"][1]) for sample in self.get("query", query=query)["result"]]
        return [number for number in numbers if not math.isnan(number)]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@dataclass(frozen=True)
class Fleet:
    """The processes that are scraped."""

    site: Site
    worker: WorkerProcess
    gateway: WorkerProcess
    webhooks: WorkerProcess


@pytest.fixture(scope="module")
def worker(fleet: Fleet) -> WorkerProcess:
    return fleet.worker


@pytest.fixture(scope="module")
def fleet(s3: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    program("prometheus", "Debian's package prometheus")
    toy = tmp_path_factory.mktemp("toy")
    write_tiny(toy)
    topics = Topics("dash.")
    with EmbeddedBroker() as embedded:
        embedded.create_topics(topics, 2)
        broker = Broker(
            embedded.bootstrap_servers,
            EMBEDDED_SETTINGS,
            lambda _: None,
        )
        site = Site(broker, topics, s3, toy, tmp_path_factory.mktemp("logs"))
        plain = site.worker("dashboard", GPU_HOURLY_USD="0.4", SLOTS="2", BUFFER_PER_PARTITION="4")
        command = ("-m", "tests.deploy.stand_in_gpu", "run")
        port = free_port()
        metrics_port = free_port()
        secret = "whsec_" + base64.b64encode(b"0" * 32).decode()
        # Nobody listens at the receiver's address.
        given = {
            "GATEWAY_PORT": str(port), "GATEWAY_METRICS_PORT": str(metrics_port),
            "WEBHOOK_URL": f"http://127.0.0.1:{free_port()}/", "WEBHOOK_SECRET": secret, "WEBHOOK_MAX_PAUSE_S": "1",
        }  # fmt: skip
        others = site.worker("others", **given)
        gateway = WorkerProcess(
            "gateway", others.environment, others.log.with_name("gateway.log"), ("-m", "worker", "gateway")
        )
        gateway.port = metrics_port
        webhooks = WorkerProcess(
            "webhooks", others.environment, others.log.with_name("webhooks.log"), ("-m", "worker", "webhooks")
        )
        with (
            WorkerProcess("dashboard", plain.environment, plain.log, command) as process,
            gateway,
            webhooks,
        ):
            stop = threading.Event()
            load = threading.Thread(target=keep_busy, args=(site, stop, port))
            load.start()
            yield Fleet(site, process, gateway, webhooks)
            stop.set()
            load.join(30)


def keep_busy(site: Site, stop: threading.Event, gateway: int) -> None:
    """Requests of every class faster than they are made, some wrong, some refined, and a record that is none."""
    client = Client(site)
    number = 0
    while not stop.is_set():
        number += 1
        lane = LANES[number % 3]
        client.request(lane, high_quality=number % 5 == 0, num_inference_steps=0 if number % 7 == 0 else 6)
        if number % 20 == 0:
            client.send(site.topics.urgent, b"junk", b"no event at all")
        if number % 5 == 0:
            ask_gateway(gateway, number // 5)
        stop.wait(0.15)
    client.close()


def ask_gateway(port: int, number: int) -> None:
    """A request over HTTP, now and then one that is none."""
    fields = {"girl_id": "luna", "user_id": 1, "prompt": "a lighthouse", "num_inference_steps": 6}
    body = json.dumps(fields if number % 8 else {}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/generate", body, {"Content-Type": "application/json", "Host": "localhost"}
    )
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=20):
        pass


@pytest.fixture(scope="module")
def cluster(fleet: Fleet) -> Iterator[int]:
    with serving("group-dash.", fleet.site.topics.prefix) as port:
        yield port


@pytest.fixture(scope="module")
def dispatcher(fleet: Fleet) -> Iterator[int]:
    with dispatching("sdxl-dispatch", fleet.site.topics.prefix) as port:
        yield port


@pytest.fixture(scope="module")
def prometheus(
    fleet: Fleet, cluster: int, dispatcher: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    targets = {
        "sdxl-worker": fleet.worker.port,
        "sdxl-gateway": fleet.gateway.port,
        "sdxl-webhooks": fleet.webhooks.port,
        "kafka-exporter": cluster,
        "sdxl-dispatch": dispatcher,
    }
    (folder / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(ALERTS)],
                "scrape_configs": [
                    {
                        "job_name": job,
                        "honor_labels": True,
                        "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
                    }
                    for job, target in targets.items()
                ],
            }
        )
    )
    server = ChildProcess(
        "prometheus",
        [
            program("prometheus", "Debian's package prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        folder / "prometheus.log",
    )
    server.start()
    found = Prometheus(port)
    try:
        server.wait_until(found.ready, 30)
        yield found
    finally:
        server.stop()


def without_data(prometheus: Prometheus, expressions: list[Expression]) -> list[Expression]:
    """Ask until every expression has answered with a number, or the time is up; returns those that never did."""
    deadline = time.monotonic() + DATA_WITHIN_S
    left = expressions
    while left and time.monotonic() < deadline:
        left = [(name, expression) for name, expression in left if not prometheus.values(expression)]
        time.sleep(0.5)
    return left


# What operators asked for (issue 7): the name on the scrape, and the label's values that must be there.
PHASES = ("look_up", "encode_text", "step", "decode", "encode", "upload", "publish")
WANTED: dict[str, tuple[str, tuple[str, ...]]] = {
    # the service guide's three
    "image_generation_requests_total": ("priority", LANES),
    "image_generation_duration_seconds_bucket": ("priority", LANES),
    "image_generation_errors_total": ("error_code", tuple(code.value for code in ErrorCode)),
    # queue, waits, phases
    "sdxl_worker_queue_jobs": ("priority", LANES),
    "sdxl_worker_queue_oldest_seconds": ("priority", LANES),
    "sdxl_worker_wait_seconds_bucket": ("priority", LANES),
    "sdxl_worker_phase_seconds_bucket": ("phase", PHASES),
    # the batch and the device
    "sdxl_worker_steps_total": ("", ()),
    "sdxl_worker_row_steps_total": ("", ()),
    "sdxl_worker_free_row_steps_total": ("", ()),
    "sdxl_worker_preemptions_total": ("", ()),
    "sdxl_worker_loras_loaded": ("", ()),
    "sdxl_worker_lora_loads_total": ("", ()),
    "sdxl_worker_memory_rung": ("", ()),
    "sdxl_worker_gpu_utilization_ratio": ("gpu", ("stand-in",)),
    "sdxl_worker_gpu_memory_bytes": ("kind", ("used", "total")),
    "sdxl_worker_gpu_seconds_total": ("use", ("useful", "wasted")),
    "sdxl_worker_cost_dollars_total": ("", ()),
    # delivery
    "sdxl_worker_uploads_total": ("result", ("stored", "retried")),
    "sdxl_worker_store_up": ("", ()),
    "sdxl_worker_store_request_seconds_count": ("operation", ("get", "head", "put")),
    "sdxl_worker_kafka_up": ("", ()),
    "sdxl_worker_kafka_answer_age_seconds": ("", ()),
    "sdxl_worker_cluster_problems": ("", ()),
    "sdxl_worker_ready": ("", ()),
    "sdxl_worker_flushes_total": ("result", ("committed", "aborted")),
    "sdxl_worker_dead_letters_total": ("", ()),
    "sdxl_worker_crash_loops_total": ("", ()),
    "sdxl_worker_suspects_waiting": ("", ()),
    # lag and the worker itself
    "kafka_consumergroup_lag": ("partition", ("0", "1")),
    "kafka_consumergroup_lag_seconds": ("partition", ("0", "1")),
    "sdxl_worker_assigned_partitions": ("topic", Topics("dash.").requests),
    "sdxl_worker_model_info": ("dtype", ("float32",)),
}


def not_scraped(page: str) -> set[tuple[str, str]]:
    """What of `WANTED` is not on a page of metrics."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    names = {sample.name for sample in samples}
    values = {(sample.name, key, value) for sample in samples for key, value in sample.labels.items()}
    missing = {(name, "") for name in WANTED if name not in names}
    return missing | {
        (n, value) for n, (key, all_) in WANTED.items() for value in all_ if (n, key, value) not in values
    }


class TestScrape:
    def test_every_metric_that_was_asked_for_is_there(self, worker: WorkerProcess) -> None:
        deadline = time.monotonic() + DATA_WITHIN_S
        while (missing := not_scraped(worker.get("/metrics")[1])) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert missing == set()

    def test_promtool_has_nothing_to_say(self, worker: WorkerProcess) -> None:
        command = [program("promtool", "Debian's package prometheus"), "check", "metrics"]
        done = subprocess.run(
            command, input=worker.get("/metrics")[1], text=True, capture_output=True, check=False, timeout=30
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_labels_hold_no_ids_and_no_prompts(self, worker: WorkerProcess) -> None:
        families = text_string_to_metric_families(worker.get("/metrics")[1])
        labels = {key for family in families for sample in family.samples for key in sample.labels}
        assert labels <= {
            "priority", "error_code", "le", "phase", "state", "use", "kind", "gpu", "result", "topic", "partition",
            "consumergroup", "model", "fingerprint", "dtype", "generation", "implementation", "major", "minor",
            "patchlevel", "version", "operation", "cause", "topic_prefix",
        }  # fmt: skip


class TestLive:
    def test_every_panel_has_data(self, prometheus: Prometheus) -> None:
        # That alerts fire is test_dead_letters_fire_for_real's.
        wanted = [one for one in panel_queries() if "Firing alerts" not in one[0]]
        assert without_data(prometheus, wanted) == []

    def test_every_metric_of_every_alert_is_there(self, prometheus: Prometheus) -> None:
        wanted = [(selector, selector) for rule in rules() for selector in sorted(selectors(rule["expr"]))]
        wanted = [one for one in wanted if one[0] not in UNSEEN and not one[0].startswith(DISPATCH)]
        assert len(wanted) > 20
        assert without_data(prometheus, wanted) == []

    def test_every_rule_is_evaluated_without_an_error(self, prometheus: Prometheus) -> None:
        loaded = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        assert len(loaded) == len(rules())
        assert [(rule["name"], rule.get("lastError", "")) for rule in loaded if rule["health"] != "ok"] == []

    def test_every_recording_rule_gives_a_series(self, prometheus: Prometheus) -> None:
        recorded = sorted({rule["record"] for rule in rules() if "record" in rule})
        assert without_data(prometheus, [(name, name) for name in recorded]) == []

    def test_dead_letters_fire_for_real(self, prometheus: Prometheus) -> None:
        assert without_data(prometheus, [("alert", 'ALERTS{alertname="DeadLetters",alertstate="firing"}')]) == []

    def test_nothing_fires_that_has_no_reason_to(self, prometheus: Prometheus) -> None:
        quiet = (
            "StoreFailing|CrashLoop|NoProgress|UrgentPartitionsUnowned|OutOfMemoryRung|FlushesAborted|WorkerRestarting"
            "|KafkaDown|ClusterProblems|NotReady|TargetDown|GpuErrors|GpusIdle|WorkersGone|LagUnknown|Autoscaler.+|Gateway.+"
            "|WebhooksNotReady|WebhooksGone"
        )
        assert prometheus.values(f'ALERTS{{alertname=~"{quiet}",alertstate="firing"}}') == []

    def test_the_lag_is_that_of_the_request_topics(self, prometheus: Prometheus) -> None:
        query = 'kafka_consumergroup_lag{job="sdxl-worker"}'
        labels = [sample["metric"] for sample in prometheus.get("query", query=query)["result"]]
        assert {(one["topic"], one["partition"]) for one in labels} == {
            (topic, str(partition)) for topic in Topics("dash.").requests for partition in range(2)
        }
        assert {one["consumergroup"] for one in labels} == {"group-dash."}

    def test_the_variable_of_the_workers_page_finds_the_worker(
        self, prometheus: Prometheus, worker: WorkerProcess, dispatcher: int
    ) -> None:
        found = prometheus.get("label/instance/values", **{"match[]": "sdxl_worker_unfinished_jobs"})
        # A dispatcher has the worker's parts for Kafka, and can be looked at on the same page.
        assert set(found) == {f"127.0.0.1:{worker.port}", f"127.0.0.1:{dispatcher}"}

    def test_a_dispatcher_is_not_counted_as_a_worker(self, prometheus: Prometheus) -> None:
        [count] = [target["expr"] for panel in BOARDS["overview.json"]["panels"] if panel["title"] == "Workers"
                   for target in panel["targets"]]  # fmt: skip
        assert prometheus.values(count) == [1]

    def test_a_picture_of_the_overview_can_be_drawn(self, prometheus: Prometheus, tmp_path: Path) -> None:
        """DASHBOARD_PICTURES names a folder to keep both pages in, after DASHBOARD_SECONDS more of load."""
        time.sleep(float(os.environ.get("DASHBOARD_SECONDS", "0")))
        folder = Path(os.environ.get("DASHBOARD_PICTURES", tmp_path))
        render = script("render")
        for board in ("overview", "services", "worker"):
            drawn = render.draw(
                prometheus.address, board, folder / f"{board}.png", seconds=180, rate_interval=RATE_INTERVAL
            )
            assert drawn == sum(len(panel["targets"]) > 0 for panel in BOARDS[f"{board}.json"]["panels"])


def script(name: str) -> Any:
    """A script of deploy/grafana, which is no package."""
    spec = importlib.util.spec_from_file_location(name, GRAFANA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestFiles:
    def test_the_json_is_what_the_script_writes(self) -> None:
        for name, text in script("build_dashboards").render().items():
            assert (GRAFANA / "dashboards" / name).read_text() == text, "run deploy/grafana/build_dashboards.py"

    @pytest.mark.parametrize("name", BOARDS)
    def test_each_can_be_provisioned_anywhere(self, name: str) -> None:
        board = BOARDS[name]
        assert board["id"] is None
        assert re.fullmatch(r"[a-z-]{1,40}", board["uid"])
        assert board["templating"]["list"][0]["type"] == "datasource"
        for panel in board["panels"]:
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)

    @pytest.mark.parametrize("name", BOARDS)
    def test_rates_follow_the_scrape_interval(self, name: str) -> None:
        for title, expression in panel_queries():
            if title.startswith(name):
                for window in re.findall(r"\b(?:rate|irate)\([^\[]*\[([^\]]+)\]", expression):
                    assert window == "$__rate_interval", title

    @pytest.mark.parametrize("name", BOARDS)
    def test_panels_have_ids_and_do_not_overlap(self, name: str) -> None:
        panels = BOARDS[name]["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
            assert not cells & taken, panel["title"]
            taken |= cells

    def test_kubernetes_has_the_same(self) -> None:
        for name in BOARDS:
            assert (ROOT / "k8s/dashboards" / name).read_text() == (GRAFANA / "dashboards" / name).read_text()

    def test_the_first_row_says_whether_users_suffer(self) -> None:
        first = [panel for panel in BOARDS["overview.json"]["panels"] if panel["gridPos"]["y"] == 0]
        assert sum(panel["gridPos"]["w"] for panel in first) == 24
        titles = " ".join(panel["title"].lower() for panel in first)
        for wanted in ("failed", "waited", "oldest", "backlog", "dead letters"):
            assert wanted in titles
        for panel in first:
            colours = [step["color"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
            assert colours[0] == "green", panel["title"]
            assert colours[-1] in ("orange", "red"), panel["title"]

    @pytest.mark.parametrize("name", BOARDS)
    def test_a_lane_has_one_colour_everywhere(self, name: str) -> None:
        render = script("render")
        for panel in BOARDS[name]["panels"]:
            for lane, colour in (("urgent", "red"), ("high", "orange"), ("normal", "blue")):
                for label in (lane, f"shop.generation.requests.{lane}", f"{lane} over 2s", f"{lane} waiting"):
                    assert render._colour(panel, label) == render.COLOURS[colour], (panel["title"], label)
            assert render._colour(panel, "bound of urgent") == render.COLOURS["gray"]

    def test_alerts_are_named(self) -> None:
        [panel] = [panel for panel in BOARDS["overview.json"]["panels"] if panel["title"] == "Firing alerts"]
        assert panel["options"]["textMode"] == "name"
        assert "{{alertname}}" in panel["targets"][0]["legendFormat"]

    def test_the_overview_shows_what_was_asked_for(self) -> None:
        titles = " ".join(panel["title"].lower() for panel in BOARDS["overview.json"]["panels"])
        for wanted in ("requests per minute", "wait", "bound", "generation time", "gpu", "queue length", "lag",
                       "errors by code", "cost of 1,000 pictures", "dead letters", "firing alerts"):  # fmt: skip
            assert wanted in titles
