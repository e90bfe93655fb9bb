"""Writes the dashboards: short here, Grafana's classic JSON in dashboards/; a test says when that is due."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "[$__rate_interval]"
# kafka_exporter may report the same partitions under the same name: the larger one counts, once.
LAG = 'kafka_consumergroup_lag{topic=~".*generation[.]requests[.].+"}'
ONE = 'instance=~"$instance"'
# Every worker has this one, and nothing else does.
WORKERS = "sdxl_worker_unfinished_jobs"

Panel = dict[str, Any]
Query = tuple[str, str]


def panel(title: str, unit: str, *queries: Query, kind: str = "timeseries", text: str = "", width: int = 8) -> Panel:
    """A panel; each query is an expression and its legend. Units are Grafana's names."""
    return {
        "title": title,
        "description": text,
        "type": kind,
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "spanNulls": True}},
            "overrides": [],
        },
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
        "gridPos": {"w": width, "h": 4 if kind == "stat" else 8},
    }


def stat(title: str, unit: str, *queries: Query, text: str = "") -> Panel:
    """A single number; four to a row of the grid's 24 columns make six."""
    return panel(title, unit, *queries, kind="stat", text=text, width=4)


def gpu_utilisation(expression: str, legend: str) -> Panel:
    """The GPU's, on either page."""
    text = "From NVML: nothing on a machine without an NVIDIA GPU."
    return panel("GPU utilisation", "percentunit", (expression, legend), text=text)


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
        "tooltip": {"mode": "multi"},
    }


def p(quantile: float, metric: str, by: str = "", where: str = "") -> str:
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket{{{where}}}{RATE})))"


def overview() -> dict[str, Any]:
    """What the service as a whole does for those who wait for pictures."""
    done = f"sum(rate(image_generation_duration_seconds_count{RATE}))"
    return dashboard(
        "sdxl-worker-overview",
        "Image generation: overview",
        [
            stat("Workers", "none", (f"count({WORKERS})", "workers")),
            stat("Pictures per minute", "none", (f"60 * {done}", "pictures")),
            stat("Firing alerts", "none", ('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts")),
            stat(
                "Failures, 1 h",
                "percentunit",
                ("sdxl_worker:failure_ratio:rate1h", "ours"),
                text="Of its own fault; the budget is 1 %.",
            ),
            stat("Oldest request", "s", ("max(kafka_consumergroup_lag_seconds)", "age")),
            stat(
                "Cost per picture",
                "currencyUSD",
                (f"sum(rate(sdxl_worker_cost_dollars_total{RATE})) / ({done} > 0)", "dollars"),
                text="Device time at GPU_HOURLY_USD, without the time that a GPU idles.",
            ),
            panel(
                "Requests per minute",
                "none",
                (f"60 * sum by (priority) (rate(image_generation_requests_total{RATE}))", "{{priority}}"),
            ),
            panel(
                "Wait for the first step, p95, and its bounds",
                "s",
                (p(0.95, "sdxl_worker_wait_seconds", "priority"), "{{priority}}"),
                ("vector(2)", "bound of urgent"),
                ("vector(5)", "bound of high"),
                ("vector(10)", "bound of normal"),
            ),
            panel(
                "Share that waits beyond its bound",
                "percentunit",
                ("sdxl_worker:wait_over_bound:ratio5m", "{{priority}} over {{bound}}"),
            ),
            panel(
                "Generation time",
                "s",
                (p(0.5, "image_generation_duration_seconds"), "p50"),
                (p(0.95, "image_generation_duration_seconds"), "p95"),
                (f"sum(rate(image_generation_duration_seconds_sum{RATE})) / ({done} > 0)", "mean"),
            ),
            panel(
                "Queue length", "none", ("sum by (priority, state) (sdxl_worker_queue_jobs)", "{{priority}} {{state}}")
            ),
            panel(
                "Oldest job that has not started",
                "s",
                ("max by (priority) (sdxl_worker_queue_oldest_seconds)", "{{priority}}"),
            ),
            panel(
                "Lag",
                "none",
                (f"sum by (topic) (max by (topic, partition) ({LAG}))", "{{topic}}"),
                text="Requests between Kafka's end and the lowest unfinished one.",
            ),
            panel(
                "Lag in seconds",
                "s",
                ("max by (topic) (kafka_consumergroup_lag_seconds)", "{{topic}}"),
                text="Age of the oldest unfinished request.",
            ),
            panel(
                "Errors by code",
                "percentunit",
                (
                    f"sum by (error_code) (rate(image_generation_errors_total{RATE})) "
                    f"/ scalar(sum(rate(image_generation_requests_total{RATE})))",
                    "{{error_code}}",
                ),
                text="Share of all requests.",
            ),
            gpu_utilisation("avg by (instance) (sdxl_worker_gpu_utilization_ratio)", "{{instance}}"),
            panel(
                "GPU time by use",
                "percentunit",
                (
                    f"sum by (use) (rate(sdxl_worker_gpu_seconds_total{RATE})) / scalar(count({WORKERS}))",
                    "{{use}}",
                ),
                text="Wasted: steps of jobs that became no picture here.",
            ),
            panel("Owned partitions", "none", ("sum by (topic) (sdxl_worker_assigned_partitions)", "{{topic}}")),
        ],
        [],
    )


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
            {
                "name": "instance",
                "label": "Worker",
                "type": "query",
                "datasource": DATASOURCE,
                "query": {"query": "label_values(sdxl_worker_unfinished_jobs, instance)", "refId": "instance"},
                "definition": "label_values(sdxl_worker_unfinished_jobs, instance)",
                "refresh": 2,
                "includeAll": True,
                "allValue": ".*",
                "multi": True,
                "current": {"text": "All", "value": "$__all"},
            }
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
    boards = {"overview.json": overview(), "worker.json": worker()}
    return {name: json.dumps(board, indent=2) + "\n" for name, board in boards.items()}


if __name__ == "__main__":
    for name, text in render().items():
        (FOLDER / name).write_text(text)
