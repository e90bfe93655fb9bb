"""A real Kafka as Strimzi sets one up: TLS with SCRAM and ACLs for clients, and a plain listener for the tests."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from devtools.local.kafka import KafkaCluster
from devtools.local.process import LOOPBACK, free_port
from tests.harness import small_request
from tests.kube.certificates import Authority
from worker.events.headers import request_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import timestamp
from worker.topics import Topics

TIMEOUT_S = 30.0
GROUP = "sdxl-worker"
ANY_PARTITION = -1


class SecureKafka:
    """One broker. Whoever comes by `secure_servers` has only the rights that ACLs give."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        pair = authority.issue("kafka")
        store = authority.folder / "kafka.pem"
        store.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes() + authority.file.read_bytes())
        port = free_port()
        self.secure_servers = f"{LOOPBACK}:{port}"
        settings = {
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # The broker itself and the tests, on the plain listener.
            "super.users": "User:ANONYMOUS",
        }
        self.cluster = KafkaCluster(1, folder / "kafka", settings=settings, listeners={"SASL_SSL": [port]})


class Upstream:
    """The request topics, seen from outside: sends requests, and knows ends and committed offsets."""

    def __init__(self, servers: str) -> None:
        self.admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self.topics = Topics()
        self._servers = servers
        self._codec = SingleObjectCodec()
        self._producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0})
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": GROUP, "log_level": 0})
        self.sent: list[str] = []

    def send(self, topic: str, count: int = 1, partition: int | None = None) -> None:
        self._send(self._producer, topic, count, partition)
        self._producer.flush(TIMEOUT_S)

    def send_in_transaction(self, topic: str, count: int, *, commit: bool) -> None:
        """A transactional upstream, whose markers stand behind its records; those of an aborted one are nobody's."""
        producer = Producer(
            {"bootstrap.servers": self._servers, "transactional.id": f"upstream-{uuid.uuid4()}", "log_level": 0}
        )
        producer.init_transactions(TIMEOUT_S)
        producer.begin_transaction()
        before = len(self.sent)
        self._send(producer, topic, count, None)
        producer.flush(TIMEOUT_S)
        if commit:
            producer.commit_transaction(TIMEOUT_S)
        else:
            producer.abort_transaction(TIMEOUT_S)
            del self.sent[before:]

    def expire(self, topic: str, partition: int, but: int) -> None:
        """Delete a partition's records as retention does, but for the last few; they will never be answered."""
        place = TopicPartition(topic, partition)
        end = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1]
        committed = max(0, self._consumer.committed([place], timeout=TIMEOUT_S)[0].offset)
        up_to = TopicPartition(topic, partition, end - but)
        self.admin.delete_records([up_to])[place].result(TIMEOUT_S)
        lost = end - but - committed
        last = len(self.sent)
        del self.sent[last - lost - but : last - but]

    def lag(self) -> dict[str, int]:
        """Ends less committed offsets, by topic; where nothing is committed, less the start of the log."""
        found = {}
        for topic in self.topics.requests:
            numbers = self._consumer.list_topics(topic, TIMEOUT_S).topics[topic].partitions
            places = self._consumer.committed([TopicPartition(topic, n) for n in numbers], timeout=TIMEOUT_S)
            total = 0
            for place in places:
                start, end = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
                total += end - (place.offset if place.offset >= 0 else start)
            found[topic] = total
        return found

    def outcomes(self) -> dict[str, int]:
        """How often each job id was completed or failed, for a `read_committed` consumer."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": f"reader-{uuid.uuid4()}",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": False,
                "log_level": 0,
            }
        )
        consumer.subscribe([self.topics.completed, self.topics.failed])
        found: dict[str, int] = {}
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 8.0:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                name = (message.key() or b"").decode()
                found[name] = found.get(name, 0) + 1
                quiet_since = time.monotonic()
        consumer.close()
        return found

    def close(self) -> None:
        self._consumer.close()

    def _send(self, producer: Producer, topic: str, count: int, partition: int | None) -> None:
        for _ in range(count):
            request = small_request()
            value, framing = self._codec.encode(request, topic=topic)
            headers = request_headers(request, source="/kube-test", now=timestamp(time.time()))
            producer.produce(
                topic,
                key=request.job_id.encode(),
                value=value,
                headers=[*headers, *framing],
                partition=ANY_PARTITION if partition is None else partition,
            )
            self.sent.append(request.job_id)
