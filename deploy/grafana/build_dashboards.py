"""Writes the dashboards: short here, Grafana's classic JSON in dashboards/; a test says when that is due."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "dashboards"
# kustomize reads no file from outside of its folder, so there is a copy.
KUBERNETES = Path(__file__).resolve().parents[2] / "k8s" / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "[$__rate_interval]"
FLEET = 'consumergroup=~"$group"'
ONE = 'instance=~"$instance"'
# Every worker has this one, and beside workers only a dispatcher.
WORKERS = "sdxl_worker_unfinished_jobs"
NO_DISPATCHER = "unless on (job, instance) sdxl_worker_dispatch_workers"
# One colour for each lane on every panel, and the same for what waits in its topic.
LANE_COLOURS = {"urgent": "red", "high": "orange", "normal": "blue"}
# The bounds of the waits in seconds; the alerts use the same.
BOUNDS_S = {"urgent": 2, "high": 5, "normal": 10}
GREEN, AMBER, RED = "green", "orange", "red"

Panel = dict[str, Any]
Query = tuple[str, str]
# Values from which a colour holds, rising.
Steps = tuple[tuple[float | None, str], ...]


def panel(
    title: str,
    unit: str,
    *queries: Query,
    kind: str = "timeseries",
    text: str = "",
    width: int = 8,
    steps: Steps = (),
) -> Panel:
    """A panel; each query is an expression and its legend. Units are Grafana's names."""
    defaults: dict[str, Any] = {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "spanNulls": True}}
    if kind == "stat":
        defaults["noValue"] = "no data"
    if steps:
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in steps],
        }
    return {
        "title": title,
        "description": text,
        "type": kind,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": [*_lane_colours(), _bounds_are_dashed()]},
        "options": _options(kind),
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": kind == "timeseries",
                "instant": kind != "timeseries",
            }
            for number, (expression, legend) in enumerate(queries)
        ],
        "gridPos": {"w": width, "h": 8 if kind == "timeseries" else 4},
    }


def _lane_colours() -> list[dict[str, Any]]:
    """A series whose name has a lane in it gets the lane's colour."""
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"/^(?!bound).*\\b{lane}\\b/"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for lane, colour in LANE_COLOURS.items()
    ]


def _bounds_are_dashed() -> dict[str, Any]:
    return {
        "matcher": {"id": "byRegexp", "options": "/^bound/"},
        "properties": [
            {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}},
            {"id": "color", "value": {"mode": "fixed", "fixedColor": "gray"}},
        ],
    }


def stat(title: str, unit: str, *queries: Query, text: str = "", steps: Steps = (), width: int = 4) -> Panel:
    """A single number; six of them fill a row of the grid's 24 columns."""
    return panel(title, unit, *queries, kind="stat", text=text, width=width, steps=steps)


def names(title: str, expression: str, legend: str, text: str = "", width: int = 8) -> Panel:
    """A list of series by their names, such as the alerts that fire."""
    found = panel(title, "none", (expression, legend), kind="stat", text=text, width=width, steps=((None, RED),))
    found["options"] |= {"textMode": "name", "graphMode": "none", "colorMode": "background"}
    found["fieldConfig"]["defaults"]["noValue"] = "none"
    return found


def gpu_utilisation(expression: str, legend: str) -> Panel:
    """The GPU's, on either page."""
    text = "From NVML: nothing on a machine without an NVIDIA GPU."
    return panel("GPU utilisation", "percentunit", (expression, legend), text=text)


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A choice among the values of a label, all of them at first."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "colorMode": "background_solid",
            "graphMode": "none",
            "textMode": "auto",
        }
    return {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
        "tooltip": {"mode": "multi"},
    }


def p(quantile: float, metric: str, by: str = "", where: str = "") -> str:
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket{{{where}}}{RATE})))"


def users(done: str, backlog: str) -> list[Panel]:
    """The first row: are users suffering?"""
    return [
        stat(
            "Requests that failed, 1 h",
            "percentunit",
            (f"max(sdxl_worker:failure_ratio:rate1h{{{FLEET}}})", "failed"),
            text="Through no fault of their own. The budget is 1 %.",
            steps=((None, GREEN), (0.01, AMBER), (0.144, RED)),
        ),
        stat(
            "Urgent requests that waited over 2 s",
            "percentunit",
            (f'max(sdxl_worker:wait_over_bound:ratio5m{{{FLEET}, priority="urgent"}})', "late"),
            text="Of those of the last five minutes; 5 % are allowed.",
            steps=((None, GREEN), (0.03, AMBER), (0.05, RED)),
        ),
        stat(
            "Others that waited over their bound",
            "percentunit",
            (f'max(sdxl_worker:wait_over_bound:ratio5m{{{FLEET}, priority!="urgent"}})', "late"),
            text="High: 5 s, normal: 10 s; 10 % are allowed.",
            steps=((None, GREEN), (0.06, AMBER), (0.1, RED)),
        ),
        stat(
            "Oldest request that waits",
            "s",
            (f"max(sdxl_worker:lag_seconds:max{{{FLEET}}})", "age"),
            steps=((None, GREEN), (60, AMBER), (300, RED)),
        ),
        stat(
            "Time to clear the backlog",
            "s",
            (f"{backlog} / ({done} > 0)", "time"),
            text="What waits, at the present pace, if nothing more came.",
            steps=((None, GREEN), (60, AMBER), (600, RED)),
        ),
        stat(
            "Dead letters, 24 h",
            "none",
            (f"round(sum(increase(sdxl_worker_dead_letters_total{{{FLEET}}}[24h])))", "records"),
            text="Records that were no requests; somebody did not get a picture.",
            steps=((None, GREEN), (0.5, AMBER)),
        ),
    ]


def overview() -> dict[str, Any]:
    """What the service as a whole does for those who wait for pictures."""
    done = f"sum(rate(image_generation_duration_seconds_count{{{FLEET}}}{RATE}))"
    backlog = f"sum(sdxl_worker:lag_records:sum{{{FLEET}}})"
    alerts = f'ALERTS{{alertstate="firing", {FLEET}}}'
    return dashboard(
        "sdxl-worker-overview",
        "Image generation: overview",
        [
            *users(done, backlog),
            names(
                "Firing alerts",
                f"count by (alertname, severity) ({alerts}) or count by (alertname, severity) "
                '(ALERTS{alertstate="firing", alertname=~"TargetDown|Autoscaler.+"})',
                "{{severity}}: {{alertname}}",
                text="Each has an entry in docs/runbook.md.",
                width=12,
            ),
            stat(
                "Workers",
                "none",
                (f"count({WORKERS}{{{FLEET}}} {NO_DISPATCHER}) or vector(0)", "workers"),
                steps=((None, "blue"),),
            ),
            stat("Pictures per minute", "none", (f"60 * {done}", "pictures"), steps=((None, "blue"),)),
            stat(
                "Cost of 1,000 pictures",
                "currencyUSD",
                (f"1000 * sum(rate(sdxl_worker_cost_dollars_total{{{FLEET}}}{RATE})) / ({done} > 0)", "dollars"),
                text="Device time at GPU_HOURLY_USD, without the time that a GPU idles.",
                steps=((None, "blue"),),
            ),
            panel(
                "Requests per minute",
                "none",
                (f"60 * sum by (priority) (rate(image_generation_requests_total{{{FLEET}}}{RATE}))", "{{priority}}"),
            ),
            panel(
                "Wait for the first step, p95, and its bounds",
                "s",
                (p(0.95, "sdxl_worker_wait_seconds", "priority", FLEET), "{{priority}}"),
                ("vector(2)", "bound of urgent"),
                ("vector(5)", "bound of high"),
                ("vector(10)", "bound of normal"),
            ),
            panel(
                "Share that waits beyond its bound",
                "percentunit",
                (f"sdxl_worker:wait_over_bound:ratio5m{{{FLEET}}}", "{{priority}} over {{bound}} {{topic_prefix}}"),
            ),
            panel(
                "Requests that wait in Kafka",
                "none",
                (f"sdxl_worker:lag_records:sum{{{FLEET}}}", "{{topic}}"),
                text="From kafka_exporter as well as from the workers, so that it stays when the last worker has gone.",
            ),
            panel(
                "Lag in seconds",
                "s",
                (f"sdxl_worker:lag_seconds:max{{{FLEET}}}", "{{topic}}"),
                text="Age of the oldest unfinished request.",
            ),
            panel(
                "Time to clear the backlog",
                "s",
                (f"{backlog} / ({done} > 0)", "at the present pace"),
            ),
            panel(
                "Generation time",
                "s",
                (p(0.5, "image_generation_duration_seconds", where=FLEET), "p50"),
                (p(0.95, "image_generation_duration_seconds", where=FLEET), "p95"),
                (f"sum(rate(image_generation_duration_seconds_sum{{{FLEET}}}{RATE})) / ({done} > 0)", "mean"),
            ),
            panel(
                "Queue length",
                "none",
                (f"sum by (priority) (sdxl_worker_queue_jobs{{{FLEET}}})", "{{priority}}"),
                text="Jobs in the workers: waiting and running.",
            ),
            panel(
                "Oldest job that has not started",
                "s",
                (f"max by (priority) (sdxl_worker_queue_oldest_seconds{{{FLEET}}})", "{{priority}}"),
            ),
            panel(
                "Errors by code",
                "percentunit",
                (
                    f"sum by (error_code) (rate(image_generation_errors_total{{{FLEET}}}{RATE})) "
                    f"/ scalar(sum(rate(image_generation_requests_total{{{FLEET}}}{RATE})))",
                    "{{error_code}}",
                ),
                text="Share of all requests.",
            ),
            gpu_utilisation(f"avg by (instance) (sdxl_worker_gpu_utilization_ratio{{{FLEET}}})", "{{instance}}"),
            panel(
                "GPU time by use",
                "percentunit",
                (
                    f"sum by (use) (rate(sdxl_worker_gpu_seconds_total{{{FLEET}}}{RATE})) "
                    f"/ scalar(count({WORKERS}{{{FLEET}}} {NO_DISPATCHER}))",
                    "{{use}}",
                ),
                text="Wasted: steps of jobs that became no picture here.",
            ),
            panel(
                "Owned partitions",
                "none",
                (f"sum by (topic) (sdxl_worker_assigned_partitions{{{FLEET}}})", "{{topic}}"),
            ),
            panel(
                "Dead letters and requests that were lost, per hour",
                "none",
                (f"sum(increase(sdxl_worker_dead_letters_total{{{FLEET}}}[1h]))", "dead letters"),
                (f"sum(increase(sdxl_worker_lost_offsets_total{{{FLEET}}}[1h]))", "lost"),
            ),
            panel(
                "GPUs with errors, and idle ones",
                "none",
                (f"sum(1 - sdxl_worker_gpu_answers{{{FLEET}}})", "do not answer"),
                (f"sum(sdxl_worker_gpus_unused{{{FLEET}}})", "unused"),
            ),
        ],
        [variable("group", "Consumer group", "label_values(sdxl_worker_unfinished_jobs, consumergroup)")],
    )


def services() -> dict[str, Any]:
    """The gateway, the webhooks, and the dispatchers."""
    requests = "sdxl_gateway_requests_total"
    hooks = "sdxl_worker_webhooks_total"
    return dashboard(
        "sdxl-worker-services",
        "Image generation: gateway, webhooks, dispatchers",
        [
            stat(
                "Requests that the gateway failed",
                "percentunit",
                (f'(sum(rate({requests}{{status=~"5.."}}{RATE})) or vector(0)) / sum(rate({requests}{RATE}))', "5xx"),
                steps=((None, GREEN), (0.01, AMBER), (0.05, RED)),
            ),
            stat(
                "POST /generate, p95",
                "s",
                (p(0.95, "sdxl_gateway_request_seconds", where='route="/generate"'), "p95"),
                text="Until Kafka has the request.",
                steps=((None, GREEN), (1, AMBER), (2, RED)),
            ),
            stat(
                "Gateways ready",
                "none",
                ("sum(sdxl_gateway_ready)", "ready"),
                steps=((None, RED), (1, GREEN)),
            ),
            stat(
                "Webhook receiver answers",
                "none",
                ("min(sdxl_worker_webhook_receiver_up)", "1: yes"),
                steps=((None, RED), (1, GREEN)),
            ),
            stat(
                "Webhooks given up, 24 h",
                "none",
                (f'round(sum(increase({hooks}{{result="given_up"}}[24h])))', "webhooks"),
                steps=((None, GREEN), (0.5, RED)),
            ),
            stat(
                "Deliverers ready",
                "none",
                ("sum(sdxl_worker_webhooks_ready)", "ready"),
                steps=((None, RED), (1, GREEN)),
            ),
            panel("Requests by answer", "reqps", (f"sum by (status) (rate({requests}{RATE}))", "{{status}}")),
            panel("Requests by path", "reqps", (f"sum by (route) (rate({requests}{RATE}))", "{{route}}")),
            panel(
                "Time to the answer, p95",
                "s",
                (p(0.95, "sdxl_gateway_request_seconds", "route"), "{{route}}"),
                text="To its first byte; streams go on after it.",
            ),
            panel(
                "Jobs that the gateways know",
                "none",
                ("max by (priority, state) (sdxl_gateway_jobs)", "{{priority}} {{state}}"),
                text="From the topics: also while no worker is there.",
            ),
            panel("Open event streams", "none", ("sum by (instance) (sdxl_gateway_streams)", "{{instance}}")),
            panel(
                "Requests without a known token, per minute",
                "none",
                (f"60 * sum(rate(sdxl_gateway_refused_tokens_total{RATE}))", "refused"),
            ),
            panel(
                "Time until Kafka has a request, p95",
                "s",
                (p(0.95, "sdxl_gateway_send_seconds", "result"), "{{result}}"),
            ),
            panel("Webhooks by result", "ops", (f"sum by (result) (rate({hooks}{RATE}))", "{{result}}")),
            panel(
                "Webhooks that wait, and time of one, p95",
                "none",
                ("sum(sdxl_worker_webhooks_waiting)", "waiting"),
                (p(0.95, "sdxl_worker_webhook_seconds"), "seconds, p95"),
            ),
            *dispatchers(),
        ],
        [],
    )


def dispatchers() -> list[Panel]:
    """Rows of the dispatchers. Each knows all workers and holds requests of its own: maxima and sums."""
    known, waiting = "sdxl_worker_dispatch_workers", "sdxl_worker_dispatch_waiting_requests"
    oldest, passed = "sdxl_worker_dispatch_oldest_seconds", "sdxl_worker_dispatch_wait_seconds"
    # Workers have this one, too.
    hop = f"rate(sdxl_worker_transaction_seconds_%s{RATE}) and on (job, instance) {known}"
    hops = hop % "bucket"
    holds = f"(sum by (job, instance) ({waiting}) > 0)"
    overdue = " or ".join(f'{oldest}{{priority="{lane}"}} / {bound}' for lane, bound in BOUNDS_S.items())
    return [
        stat(
            "Dispatchers ready",
            "none",
            (f"sum(sdxl_worker_ready and on (job, instance) {known})", "ready"),
            steps=((None, RED), (1, GREEN)),
        ),
        stat(
            "Oldest request, of its bound",
            "percentunit",
            (f"max({overdue})", "age"),
            text="The one that has waited longest in a dispatcher. Bounds: urgent 2 s, high 5 s, normal 10 s.",
            steps=((None, GREEN), (0.5, AMBER), (1, RED)),
        ),
        stat(
            "Workers that are sent work",
            "none",
            (f'max({known}{{state="reporting"}})', "reporting"),
            steps=((None, RED), (1, GREEN)),
        ),
        stat(
            "Workers that went silent",
            "none",
            (f'max({known}{{state="silent"}})', "silent"),
            text="They took work, and have not reported for 3 s.",
            steps=((None, GREEN), (1, AMBER)),
        ),
        stat(
            "Idle workers while requests wait",
            "none",
            (f'max({known}{{state="idle"}} and on (job, instance) {holds}) or vector(0)', "idle"),
            text="For a moment that is normal: a request is on its way.",
            steps=((None, GREEN), (1, AMBER)),
        ),
        stat(
            "Hop, p99",
            "s",
            (f"histogram_quantile(0.99, sum by (le) ({hops}))", "p99"),
            text="A transaction: until requests and their offsets are durable.",
            steps=((None, GREEN), (0.5, AMBER), (2, RED)),
        ),
        panel(
            "Requests that wait in dispatchers",
            "none",
            (f"sum by (priority) ({waiting})", "{{priority}}"),
            text="No worker has room for them.",
        ),
        panel(
            "Lag before the dispatchers",
            "none",
            (
                f'sdxl_worker:lag_records:sum{{topic=~".*generation[.]requests[.].+"}} '
                f"and on (consumergroup, topic_prefix) {known}",
                "{{topic}}",
            ),
            text="Lag of their group: with what they hold.",
        ),
        panel(
            "Lag behind the dispatchers",
            "none",
            ('sdxl_worker:lag_records:sum{topic=~".*generation[.]work[.].+"}', "{{topic}}"),
            text="Lag of the workers. In offsets: a request's record, and the marker of its transaction.",
        ),
        panel(
            "Oldest request in a dispatcher, and the bounds",
            "s",
            (f"max by (priority) ({oldest})", "{{priority}}"),
            *((f"vector({bound})", f"bound of {lane}") for lane, bound in BOUNDS_S.items()),
        ),
        panel(
            "Time in the dispatcher, p95",
            "s",
            (p(0.95, passed, "priority"), "{{priority}}"),
            text="From reading to sending.",
        ),
        panel(
            "Hop",
            "s",
            (f"histogram_quantile(0.5, sum by (le) ({hops}))", "p50"),
            (f"histogram_quantile(0.99, sum by (le) ({hops}))", "p99"),
        ),
        panel("Passed on", "reqps", (f"sum by (priority) (rate({passed}_count{RATE}))", "{{priority}}")),
        panel(
            "Workers as dispatchers know them",
            "none",
            (f"max by (state) ({known})", "{{state}}"),
            text="Reporting: sent work; of these, full: no room for a normal request, and idle: no work. "
            "Refusing: they drain, or are not ready.",
        ),
        panel(
            "Work of a worker",
            "s",
            ('min(sdxl_worker_dispatch_work_seconds{bound="least"})', "the least"),
            ('max(sdxl_worker_dispatch_work_seconds{bound="most"})', "the most"),
            text="Unbalanced: some have nothing to do while others have more than two pictures.",
        ),
    ]


def worker() -> dict[str, Any]:
    """What one worker, or several side by side, does with its GPU."""

    def each(metric: str, *more: str) -> str:
        labels = ", ".join(("instance", *more))
        return f"sum by ({labels}) (rate({metric}{{{ONE}}}{RATE}))"

    return dashboard(
        "sdxl-worker-worker",
        "Image generation: worker",
        [
            stat(
                "Memory rung",
                "none",
                (f"max(sdxl_worker_memory_rung{{{ONE}}})", "rung"),
                text="0: no memory was short.",
            ),
            stat(
                "S3 and Kafka answer",
                "none",
                (f"min(sdxl_worker_store_up{{{ONE}}})", "S3"),
                (f"min(sdxl_worker_kafka_up{{{ONE}}})", "Kafka"),
            ),
            stat("Unfinished jobs", "none", (f"sum(sdxl_worker_unfinished_jobs{{{ONE}}})", "jobs")),
            stat("Paused partitions", "none", (f"sum(sdxl_worker_paused_partitions{{{ONE}}})", "paused")),
            stat(
                "Dead letters, 1 h", "none", (f"sum(increase(sdxl_worker_dead_letters_total{{{ONE}}}[1h]))", "records")
            ),
            stat("Crash loops, 1 h", "none", (f"sum(increase(sdxl_worker_crash_loops_total{{{ONE}}}[1h]))", "jobs")),
            panel(
                "Ready",
                "none",
                (f"sdxl_worker_ready{{{ONE}}}", "{{instance}}"),
                text="1 while /ready says yes; the probe itself says why not.",
            ),
            panel(
                "Kafka: time since its last answer",
                "s",
                (f"sdxl_worker_kafka_answer_age_seconds{{{ONE}}}", "{{instance}}"),
                text="A few seconds when all is well: the statistics come every five.",
            ),
            panel(
                "Cluster problems",
                "none",
                (f"sdxl_worker_cluster_problems{{{ONE}}}", "{{instance}}"),
                text="Missing topics or rights, unequal partition counts, limits that are too low.",
            ),
            panel("Phases, p95", "s", (p(0.95, "sdxl_worker_phase_seconds", "phase", ONE), "{{phase}}")),
            panel(
                "S3 requests, p95",
                "s",
                (p(0.95, "sdxl_worker_store_request_seconds", "operation", ONE), "{{operation}}"),
                text="A look-up of a stored result is a get; retries within the S3 client are included.",
            ),
            panel(
                "Time per phase",
                "percentunit",
                (f"sum by (phase) (rate(sdxl_worker_phase_seconds_sum{{{ONE}}}{RATE}))", "{{phase}}"),
                text="Seconds of each phase per second; encode and upload run in several threads.",
            ),
            panel("UNet steps per second", "none", (each("sdxl_worker_steps_total"), "{{instance}}")),
            panel(
                "Rows per step",
                "none",
                (
                    f"{each('sdxl_worker_row_steps_total')} / ({each('sdxl_worker_steps_total')} > 0)",
                    "{{instance}} used",
                ),
                (
                    f"{each('sdxl_worker_free_row_steps_total')} / ({each('sdxl_worker_steps_total')} > 0)",
                    "{{instance}} free",
                ),
            ),
            panel(
                "Suspects waiting",
                "none",
                (f"sdxl_worker_suspects_waiting{{{ONE}}}", "{{instance}}"),
                text="Jobs that were running when a process died, and wait to be started again.",
            ),
            panel("Preemptions per minute", "none", (f"60 * {each('sdxl_worker_preemptions_total')}", "{{instance}}")),
            panel(
                "Queue",
                "none",
                (f"sum by (priority, state) (sdxl_worker_queue_jobs{{{ONE}}})", "{{priority}} {{state}}"),
            ),
            gpu_utilisation(f"sdxl_worker_gpu_utilization_ratio{{{ONE}}}", "{{instance}} {{gpu}}"),
            panel(
                "GPU memory",
                "bytes",
                (f'sdxl_worker_gpu_memory_bytes{{{ONE}, kind=~"used|total|peak"}}', "{{instance}} {{kind}}"),
                text="From NVML and torch: nothing on a machine without an NVIDIA GPU.",
            ),
            panel("Out-of-memory rung", "none", (f"sdxl_worker_memory_rung{{{ONE}}}", "{{instance}}")),
            panel(
                "LoRA cache",
                "none",
                (f"sdxl_worker_loras_loaded{{{ONE}}}", "{{instance}} in the cache"),
                (f"60 * {each('sdxl_worker_lora_loads_total')}", "{{instance}} loads per minute"),
                text="Loads at the rate of the jobs: the cache is too small for the LoRAs in use.",
            ),
            panel("Uploads", "none", (each("sdxl_worker_uploads_total", "result"), "{{instance}} {{result}}")),
            panel(
                "Flushes",
                "none",
                (each("sdxl_worker_flushes_total", "result"), "{{instance}} {{result}}"),
                text="Transactions, or flushes of an at-least-once worker.",
            ),
            panel(
                "Flush time, p99",
                "s",
                (
                    f"histogram_quantile(0.99, sum by (instance, le) "
                    f"(rate(sdxl_worker_transaction_seconds_bucket{{{ONE}}}{RATE})))",
                    "{{instance}}",
                ),
                text="From the look into the books until results and offsets are durable.",
            ),
            panel(
                "Hung flushes and silent partitions",
                "none",
                (each("sdxl_worker_settle_timeouts_total"), "{{instance}} processes ended by a hung flush"),
                (each("sdxl_worker_partitions_reopened_total"), "{{instance}} partitions opened again"),
                (each("sdxl_worker_members_replaced_total"), "{{instance}} group members replaced"),
            ),
            panel(
                "Discarded and republished",
                "none",
                (each("sdxl_worker_discarded_results_total"), "{{instance}} discarded"),
                (each("sdxl_worker_republished_total"), "{{instance}} republished"),
            ),
            panel(
                "Lag by partition",
                "none",
                (f'kafka_consumergroup_lag{{{ONE}, topic=~".*generation[.]requests[.].+"}}', "{{topic}} {{partition}}"),
            ),
            panel("Owned partitions", "none", (f"sdxl_worker_assigned_partitions{{{ONE}}}", "{{instance}} {{topic}}")),
            panel(
                "CPU",
                "none",
                (
                    f"rate(process_cpu_seconds_total{{{ONE}}}{RATE}) and on (job, instance) {WORKERS}",
                    "{{instance}}",
                ),
                text="Cores.",
            ),
            panel(
                "Memory",
                "bytes",
                (
                    f"process_resident_memory_bytes{{{ONE}}} and on (job, instance) {WORKERS}",
                    "{{instance}}",
                ),
            ),
            panel(
                "Model",
                "none",
                (f"sdxl_worker_model_info{{{ONE}}}", "{{instance}} {{model}} {{dtype}}"),
                text="Which model each worker has loaded; the value is always 1.",
            ),
        ],
        [
            variable("instance", "Worker", "label_values(sdxl_worker_unfinished_jobs, instance)"),
        ],
    )


def dashboard(uid: str, title: str, panels: list[Panel], variables: list[dict[str, Any]]) -> dict[str, Any]:
    """A dashboard whose panels fill rows of 24 columns from left to right."""
    x = y = 0
    height = 0
    for number, one in enumerate(panels, start=1):
        place = one["gridPos"]
        if x + place["w"] > 24 or (x and place["h"] != height):
            x, y = 0, y + height
        one["id"] = number
        place |= {"x": x, "y": y}
        x, height = x + place["w"], place["h"]
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "uid": uid,
        "id": None,
        "title": title,
        "tags": ["sdxl-worker"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "tags": ["sdxl-worker"], "asDropdown": False, "includeVars": False, "title": ""}
        ],
        "templating": {"list": [source, *variables]},
        "annotations": {"list": []},
        "panels": panels,
    }


def render() -> dict[str, str]:
    """File names and their contents."""
    boards = {"overview.json": overview(), "services.json": services(), "worker.json": worker()}
    return {name: json.dumps(board, indent=2) + "\n" for name, board in boards.items()}


if __name__ == "__main__":
    for folder in (FOLDER, KUBERNETES):
        for name, text in render().items():
            (folder / name).write_text(text)
