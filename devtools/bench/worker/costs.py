"""`python -m devtools.bench.worker.costs`: what a picture costs under load at those who charge for it.

A backlog of requests is drawn by a whole worker on a real Kafka and a real S3; the worker's own counters tell requests
to S3 and transactions, and a consumer counts the records that were written for them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, Producer, TopicPartition

from devtools.bench.worker.alone import run_alone
from devtools.bench.worker.one_worker import OneWorker
from devtools.bench.worker.servers import servers
from worker.events.headers import request_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationRequest, timestamp
from worker.topics import Topics

PICTURES = 200
PICTURE_S = 0.05
SIDE_PX = 256
TIMEOUT_S = 180.0
_POLL_S = 0.2
_QUIET_S = 3.0

Counters = Mapping[tuple[str, str], float]


def measure(repeats: int) -> dict[str, list[float]]:
    """Return requests to S3, records and transactions for each picture."""
    found: dict[str, list[float]] = {}
    with servers() as place:
        worker = OneWorker(place, "costs", PICTURE_S)
        worker.child.start()
        try:
            worker.child.wait_until(worker.is_ready, TIMEOUT_S)
            for turn in range(repeats):
                for key, value in draw(place.bootstrap, worker, f"turn-{turn}").items():
                    found.setdefault(key, []).append(value)
        finally:
            worker.stop()
    return found


def draw(bootstrap: str, worker: OneWorker, name: str) -> dict[str, float]:
    """Have a backlog drawn; return what each of its pictures has cost."""
    topics = Topics()
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "isolation.level": "read_committed"})
    written = (topics.completed, topics.failed, topics.status, topics.dead_letter)
    reader.assign([place for topic in written for place in _ends(reader, topic)])
    before = worker.counters()
    send(bootstrap, topics.requests[-1], name)
    completed = records = 0
    deadline = time.monotonic() + TIMEOUT_S
    last = time.monotonic()
    while completed < PICTURES or time.monotonic() - last < _QUIET_S:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{completed} of {PICTURES} pictures in {TIMEOUT_S:.0f} s:\n{worker.child.log_tail()}")
        message = reader.poll(_POLL_S)
        if message is not None and message.error() is None:
            records, last = records + 1, time.monotonic()
            completed += message.topic() == topics.completed
    reader.close()
    return {
        **per_picture(before, worker.counters(), completed),
        "kafka_records_per_picture": records / completed,
    }


def per_picture(before: Counters, after: Counters, pictures: int) -> dict[str, float]:
    """What the worker's counters say of so many pictures."""

    def grown(name: str) -> dict[str, float]:
        return {label: value - before.get((of, label), 0.0) for (of, label), value in after.items() if of == name}

    requests = grown("sdxl_worker_store_request_seconds_count")
    return {
        "s3_requests_per_picture": sum(requests.values()) / pictures,
        "s3_puts_per_picture": requests.get("put", 0.0) / pictures,
        "transactions_per_picture": sum(grown("sdxl_worker_flushes_total").values()) / pictures,
    }


def send(bootstrap: str, topic: str, name: str) -> None:
    """Write requests that nobody wrote before."""
    codec, producer = SingleObjectCodec(), Producer({"bootstrap.servers": bootstrap, "log_level": 2})
    for number in range(PICTURES):
        request = GenerationRequest(
            job_id=f"{name}-{time.time_ns()}-{number}",
            girl_id="bench",
            user_id=number,
            prompt=f"a lighthouse at dusk, number {number}",
            seed=number,
            width=SIDE_PX,
            height=SIDE_PX,
        )
        value, framing = codec.encode(request, topic=topic)
        headers = [*request_headers(request, source="/bench", now=timestamp(time.time())), *framing]
        producer.produce(topic, key=request.job_id.encode(), value=value, headers=list(headers))
    if producer.flush(TIMEOUT_S):
        raise TimeoutError("the broker took too long for the requests")


def _ends(reader: Consumer, topic: str) -> list[TopicPartition]:
    numbers = reader.list_topics(topic, TIMEOUT_S).topics[topic].partitions
    places = [TopicPartition(topic, number) for number in numbers]
    return [TopicPartition(topic, p.partition, reader.get_watermark_offsets(p, TIMEOUT_S)[1]) for p in places]


if __name__ == "__main__":
    run_alone(measure)
