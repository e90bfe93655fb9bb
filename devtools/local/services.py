"""Run Kafka and SeaweedFS with the topics and the bucket in the foreground: `python -m devtools.local.services`."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from devtools.local.kafka import KafkaCluster
from devtools.local.kafka_jars import JavaMissingError
from devtools.local.process import ProcessError, port_is_free
from devtools.local.seaweedfs import SeaweedFS, SeaweedMissingError
from worker.topic_admin import TopicsError, create_topics
from worker.topics import DEFAULT_PARTITIONS, Topics

KAFKA_PORT = 9092
S3_PORT = 8333
BUCKET = "generated-pictures"
ENV_FILE = "env"
WATCH_INTERVAL_S = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the services until Ctrl-C or SIGTERM; return the exit code."""
    options = _parser().parse_args(arguments)
    busy = [port for port in (options.kafka_port, options.s3_port) if not port_is_free(port)]
    if busy:
        print(f"port {busy[0]} is in use: is another `make services` running?", file=sys.stderr)
        return 1
    kafka = KafkaCluster(1, options.directory / "kafka", ports=[options.kafka_port])
    s3 = SeaweedFS(options.directory / "s3", options.bucket, port=options.s3_port)
    try:
        with interruptible(), s3, kafka:
            create_topics(kafka.bootstrap_servers, Topics(options.prefix), options.partitions)
            _announce(kafka, s3, options.directory / ENV_FILE)
            print(_watch(kafka, s3), file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    except (JavaMissingError, SeaweedMissingError, ProcessError, TopicsError) as error:
        print(error, file=sys.stderr)
    return 1


def environment(kafka: KafkaCluster, s3: SeaweedFS) -> Mapping[str, str]:
    """Return the environment variables with which a worker reaches these services."""
    return {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, **s3.environment}


def write_environment(values: Mapping[str, str], file: Path) -> str:
    """Write the lines that a shell sources, for this user alone, and return them."""
    lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(lines)
    return lines


def _parser() -> argparse.ArgumentParser:
    description = "Run Kafka and SeaweedFS with the topics and the bucket until Ctrl-C."
    parser = argparse.ArgumentParser(prog="python -m devtools.local.services", description=description)
    parser.add_argument(
        "--directory", type=Path, default=Path(".local"), help="folder for data and logs, kept between runs"
    )
    parser.add_argument("--kafka-port", type=int, default=KAFKA_PORT)
    parser.add_argument("--s3-port", type=int, default=S3_PORT)
    parser.add_argument("--bucket", default=BUCKET)
    parser.add_argument("--prefix", default="", help="prefix of every topic's name")
    parser.add_argument("--partitions", type=int, default=DEFAULT_PARTITIONS, help="partitions of each request topic")
    return parser


def _announce(kafka: KafkaCluster, s3: SeaweedFS, file: Path) -> None:
    """Print the export lines on standard output, and messages for people on standard error."""
    print(write_environment(environment(kafka, s3), file), end="", flush=True)
    print(
        f"ready; `. {file}` sets these in another shell; the logs are {kafka.log_path(1)} and {s3.log_path}; "
        "press Ctrl-C to stop",
        file=sys.stderr,
        flush=True,
    )


def _watch(kafka: KafkaCluster, s3: SeaweedFS) -> str:
    """Wait until a service ends unexpectedly, and return a message about it."""
    while kafka.running(1) and s3.running:
        time.sleep(WATCH_INTERVAL_S)
    name, log = ("S3", s3.log_path) if kafka.running(1) else ("Kafka", kafka.log_path(1))
    return f"{name} ended unexpectedly, see {log}"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for the first SIGTERM or Ctrl-C; later ones do not interrupt the shutdown."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
