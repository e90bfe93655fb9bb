"""`python -m devtools.bench.worker.intake`: what it costs to take one record in, beside two others that read the same.

Ours is the worker's own intake: three group members, the ledger, decoding, admission, lag. `raw` is a consumer of
confluent-kafka that looks at nothing. FastStream's subscriber decodes the same Avro with fastavro.

What is compared is processor time, librdkafka's threads included, from the first record to the last.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka import Consumer, Producer, TopicPartition

from devtools.bench.worker.alone import run_alone
from devtools.bench.worker.intake_faststream import run_faststream
from devtools.bench.worker.intake_ours import run_ours
from devtools.bench.worker.record_watch import Stopwatch
from devtools.local.kafka import KafkaCluster
from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationRequest
from worker.topic_admin import create_topics
from worker.topics import Topics

RECORDS = 20_000
PARTITIONS = 4
FILL_TIMEOUT_S = 120.0

_numbers = count()


Run = Callable[[str, str, Topics, Stopwatch], None]


def measure(repeats: int) -> dict[str, list[float]]:
    """Compare on a real broker."""
    with TemporaryDirectory(prefix="bench-intake-") as name, KafkaCluster(1, Path(name)) as cluster:
        create_topics(cluster.bootstrap_servers, Topics("intake."), PARTITIONS)
        return compare(cluster.bootstrap_servers, Topics("intake."), RECORDS, repeats)


def compare(servers: str, topics: Topics, records: int, repeats: int) -> dict[str, list[float]]:
    """Fill the normal lane's topic with so many records, and let each contestant read it in turn."""
    fill(servers, topics.requests[-1], records)
    contestants: dict[str, Run] = {"raw": run_raw, "ours": run_ours, "faststream": run_faststream}
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        costs = {}
        for name, run in contestants.items():
            watch = Stopwatch(records)
            run(servers, f"intake-{name}-{next(_numbers)}", topics, watch)
            costs[name] = watch.cost()
            found.setdefault(f"intake_{name}_us", []).append(1e6 * costs[name].cpu_s)
        for other in ("raw", "faststream"):
            found.setdefault(f"intake_over_{other}", []).append(costs["ours"].cpu_s / costs[other].cpu_s)
            found.setdefault(f"intake_wall_over_{other}", []).append(costs["ours"].wall_s / costs[other].wall_s)
    return found


def fill(servers: str, topic: str, records: int) -> None:
    """Write requests with prompts of their own, evenly over the partitions."""
    codec, producer = SingleObjectCodec(), Producer({"bootstrap.servers": servers, "log_level": 2})
    for number in range(records):
        request = GenerationRequest(
            job_id=f"job-{number}",
            girl_id="bench",
            user_id=number,
            prompt=f"portrait of an adult woman with a red umbrella on a bridge in the rain, photo {number}",
            negative_prompt="blurry, low quality",
            seed=number,
        )
        value, _ = codec.encode(request, topic=topic)
        producer.produce(topic, key=request.job_id.encode(), value=value, partition=number % PARTITIONS)
        producer.poll(0)
    if producer.flush(FILL_TIMEOUT_S):
        raise TimeoutError("the broker took too long for the requests")


def run_raw(servers: str, group: str, topics: Topics, watch: Stopwatch) -> None:
    """Poll, and look at nothing."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group, "log_level": 2})
    consumer.assign([TopicPartition(topics.requests[-1], number, 0) for number in range(PARTITIONS)])
    while watch.wants_more():
        if consumer.poll(0.1) is not None:
            watch.tick()
    consumer.close()


if __name__ == "__main__":
    run_alone(measure)
