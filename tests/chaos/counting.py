"""Count how often each request has ended, as a downstream `read_committed` consumer sees it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tests.chaos.tally import Tally, text_of
from tests.chaos.traffic import Ending, code_of, ending_of, number_of
from worker.topics import Topics

_METADATA_TIMEOUT_S = 30.0


def ends(topics: Topics) -> Mapping[str, Ending]:
    """The topics that hold outcomes."""
    return {
        topics.completed: Ending.COMPLETED,
        topics.failed: Ending.FAILED,
        topics.dead_letter: Ending.DEAD_LETTER,
    }


def wrong_end(job_id: str, found: Ending, code: str) -> str | None:
    """What is wrong with how a job ended, or None."""
    number = number_of(job_id)
    due = ending_of(number)
    if due is not found:
        return f"{job_id} {found} ({code}), not {due}"
    if due is Ending.FAILED and code != code_of(number):
        return f"{job_id} failed with {code}, not {code_of(number)}"
    return None


class Reader:
    """Counts the records of some topics from their first offset on."""

    def __init__(self, servers: str, topics: Sequence[str], jobs: int, endings: Mapping[str, Ending]) -> None:
        self._endings = endings
        self.tally = Tally(bytearray(jobs))
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": f"chaos-reader-{uuid.uuid4().hex[:8]}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        self._open = {(name, partition) for name in topics for partition in self._partitions(name)}
        self._consumer.assign([TopicPartition(name, partition, 0) for name, partition in self._open])

    def poll(self, timeout_s: float) -> None:
        """Count at most one record."""
        record = self._consumer.poll(timeout_s)
        if record is None:
            return
        topic, error = record.topic() or "", record.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._open.discard((topic, record.partition() or 0))
            return
        job_id = text_of(record.key())
        self.tally.add(number_of(job_id), (topic, record.partition() or 0))
        if topic in self._endings:
            self._judge(topic, job_id, dict(record.headers() or []))

    def read_all(self) -> Tally:
        """Count up to the end of every partition."""
        while self._open:
            self.poll(1.0)
        self.close()
        return self.tally

    def close(self) -> None:
        self._consumer.close()

    def _partitions(self, topic: str) -> list[int]:
        # A broker may be asked before it has heard of a topic that another has just created.
        deadline = time.monotonic() + _METADATA_TIMEOUT_S
        while time.monotonic() < deadline:
            known = self._consumer.list_topics(topic, timeout=_METADATA_TIMEOUT_S).topics[topic]
            if known.partitions and known.error is None:
                return list(known.partitions)
            time.sleep(0.1)
        raise TimeoutError(f"no broker knows the partitions of {topic}")

    def _judge(self, topic: str, job_id: str, headers: Mapping[str, str | bytes | None]) -> None:
        worker = text_of(headers.get("worker-id"))
        self.tally.workers[worker] = self.tally.workers.get(worker, 0) + 1
        complaint = wrong_end(job_id, self._endings[topic], text_of(headers.get("error-code")))
        if complaint:
            self.tally.wrong.append(complaint)


class Follower:
    """A `Reader` of outcomes on a thread of its own, from the start of the run."""

    def __init__(self, servers: str, topics: Topics, jobs: int) -> None:
        self._reader = Reader(servers, list(ends(topics)), jobs, ends(topics))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self.tally = self._reader.tally

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._reader.poll(0.1)
            except KafkaException:
                continue
        self._reader.close()
