"""The whole service on this machine, in one command: `python -m devtools.local.up`, which `make up` runs."""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from devtools.local.kafka import KafkaCluster
from devtools.local.kafka_jars import JavaMissingError
from devtools.local.process import LOOPBACK, ChildProcess, ProcessError, port_is_free
from devtools.local.seaweedfs import SeaweedFS, SeaweedMissingError
from devtools.local.services import (
    BUCKET,
    ENV_FILE,
    KAFKA_PORT,
    S3_PORT,
    WATCH_INTERVAL_S,
    environment,
    interruptible,
    write_environment,
)
from devtools.models.shipped import DEMO_BASE, DEMO_LORAS, DEMO_REFINER
from worker.topic_admin import TopicsError, create_topics
from worker.topics import Topics

GATEWAY_PORT = 8007
WORKER_PORT = 8008
PARTITIONS = 4
READY_TIMEOUT_S = 180.0
STOP_GRACE_S = 20.0
# Variables of this shell that would point a part to another cluster, bucket or model.
_FOREIGN = ("KAFKA_", "AWS_", "SCHEMA_REGISTRY_", "SDXL_", "GATEWAY_", "CLOUDFRONT_")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything until Ctrl-C or SIGTERM; return the exit code."""
    options = _parser().parse_args(arguments)
    ports = (options.kafka_port, options.s3_port, options.worker_port, options.gateway_port)
    busy = [port for port in ports if not port_is_free(port)]
    if busy:
        print(f"port {busy[0]} is in use: is another `make up` or `make services` running?", file=sys.stderr)
        return 1
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    try:
        with interruptible(), ExitStack() as stack:
            children = _start(options, stack)
            print(f"\nthe page:  http://localhost:{options.gateway_port}/\n", flush=True)
            _say(f"`. {options.directory / ENV_FILE}` sets the settings in another shell; press Ctrl-C to stop")
            ended = _first_to_end(children)
            print(f"{ended.name} ended unexpectedly, see {ended.log_path}", file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    except (JavaMissingError, SeaweedMissingError, ProcessError, TopicsError) as error:
        print(error, file=sys.stderr)
    return 1


def settings(services: Mapping[str, str], options: argparse.Namespace) -> dict[str, str]:
    """What worker and gateway are told, and what a shell needs to use them."""
    return {
        **services,
        "SDXL_MODEL_ID": str(DEMO_BASE),
        "SDXL_REFINER_ID": str(DEMO_REFINER),
        "SDXL_LORA_PATH": str(DEMO_LORAS),
        # What the demo SDXL was trained at; at 1024 × 1024 it takes minutes on a CPU, and draws nonsense.
        "GATEWAY_PAGE_SIZE": "128x128",
        "DEVICE": "cpu",
        "DTYPE": "float32",
        "OMP_NUM_THREADS": "1",
        "HTTP_HOST": LOOPBACK,
        "HTTP_PORT": str(options.worker_port),
        "GATEWAY_HOST": LOOPBACK,
        "GATEWAY_PORT": str(options.gateway_port),
    }


def _start(options: argparse.Namespace, stack: ExitStack) -> list[ChildProcess]:
    """Start the parts one after the other; worker and gateway are ready when this returns."""
    _say("starting Kafka and S3")
    s3 = stack.enter_context(SeaweedFS(options.directory / "s3", BUCKET, port=options.s3_port))
    kafka = stack.enter_context(KafkaCluster(1, options.directory / "kafka", ports=[options.kafka_port]))
    create_topics(kafka.bootstrap_servers, Topics(), PARTITIONS)
    values = settings(environment(kafka, s3), options)
    write_environment(values, options.directory / ENV_FILE)
    _say("starting the worker with the demo model, and the gateway")
    started = []
    for verb, port in (("run", options.worker_port), ("gateway", options.gateway_port)):
        name = "the worker" if verb == "run" else "the gateway"
        log = options.directory / f"{name.rpartition(' ')[2]}.log"
        child = ChildProcess(name, [sys.executable, "-m", "worker", verb], log, values)
        child.start()
        stack.callback(child.stop, STOP_GRACE_S)
        started.append((child, port))
    for child, port in started:
        child.wait_until(partial(_is_ready, port), READY_TIMEOUT_S)
    return [child for child, _ in started]


def _first_to_end(children: Sequence[ChildProcess]) -> ChildProcess:
    while True:
        for child in children:
            if not child.running:
                return child
        time.sleep(WATCH_INTERVAL_S)


def _is_ready(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{LOOPBACK}:{port}/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    description = "Run Kafka, S3, a worker with the demo model and the gateway until Ctrl-C."
    parser = argparse.ArgumentParser(prog="python -m devtools.local.up", description=description)
    parser.add_argument(
        "--directory", type=Path, default=Path(".local"), help="folder for data and logs, kept between runs"
    )
    parser.add_argument("--kafka-port", type=int, default=KAFKA_PORT)
    parser.add_argument("--s3-port", type=int, default=S3_PORT)
    parser.add_argument("--worker-port", type=int, default=WORKER_PORT)
    parser.add_argument("--gateway-port", type=int, default=GATEWAY_PORT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
