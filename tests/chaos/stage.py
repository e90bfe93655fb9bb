"""The surroundings of the workers: three brokers, S3 and topics, and the creation of worker processes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from devtools.local.kafka import KafkaCluster
from devtools.local.process import LOOPBACK, free_ports
from devtools.local.seaweedfs import SeaweedFS
from tests.chaos.crew import Life
from tests.chaos.options import BUCKET, DISPATCH_GROUP, GROUP, PARTITIONS, SESSION_TIMEOUT_S, Options
from tests.chaos.proxy import S3Proxy
from tests.chaos.roles import DISPATCHER, role_of
from tests.forking import ForkedProcess
from tests.rights import BROKER_SETTINGS, LISTENER, USER, TakenTogether, of_group, of_topic, of_transactional_ids
from worker.topic_admin import create_topics
from worker.topics import Topics

BROKERS = 3


@dataclass(frozen=True)
class Stage:
    """The servers, and the files of the run.

    `signed_in`: where the workers reach the brokers, as a user with rights that can be taken away.
    `topics` are those with requests, `work` those that the workers read: the same without dispatchers.
    """

    options: Options
    kafka: KafkaCluster
    signed_in: str
    s3: SeaweedFS
    proxy: S3Proxy
    topics: Topics
    work_topics: Topics
    _numbers: Iterator[int]

    @property
    def logs(self) -> Path:
        return self.options.folder / "logs"

    @property
    def work(self) -> Path:
        return self.options.folder / "work"

    def hire(self, name: str) -> Life:
        """Start a process of a worker or a dispatcher."""
        life = f"{next(self._numbers):04d}-{name}"
        log, work = self.logs / f"{life}.log", self.work / f"{life}.log"
        environment = self._environment(name) | {
            "CHAOS_WORK_LOG": str(work),
            "CHAOS_TRACE": str(self.logs / f"{life}.offsets"),
        }
        process = ForkedProcess(life, ["tests.chaos.worker_main"], log, environment)
        process.start()
        return Life(name, process, log, work)

    def _environment(self, name: str) -> dict[str, str]:
        is_toy = name.startswith("toy")
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.signed_in,
            **USER,
            "KAFKA_GROUP_ID": GROUP,
            "DISPATCH_GROUP_ID": DISPATCH_GROUP,
            "INPUT": self.work_topics.input,
            "KAFKA_GROUP_PROTOCOL": self.options.protocol,
            "WORKER_ID": name,
            **self.s3.environment,
            "AWS_ENDPOINT_URL_S3": self.proxy.endpoint_url,
            # Kills are not the jobs' fault here.
            "CRASH_LOOP_LIMIT": "1000",
            "UPLOAD_THREADS": "2",
            "THUMBNAIL_PX": "32",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
            "OMP_NUM_THREADS": "1",
            "DEVICE": "cpu",
            "SDXL_MODEL_ID": str(self.options.folder / "toy" / "base"),
            "SDXL_REFINER_ID": "none",
            "CHAOS_ENGINE": "toy" if is_toy else "stand-in",
            "CHAOS_PICTURE_S": str(self.options.picture_s),
            "CHAOS_LONG_PICTURES": "yes",
            "CHAOS_MEMBERS": self.options.members,
            "CHAOS_ROLE": role_of(name),
        }

    def losable_rights(self) -> list[TakenTogether]:
        """What is taken from the workers' user in turn, each for some seconds."""
        topics, work = self.topics, self.work_topics
        rights = [
            (of_topic(topics.completed, "WRITE"), of_topic(work.normal, "READ")),
            (of_transactional_ids(f"{GROUP}-", "WRITE"),),
            (of_topic(topics.failed, "WRITE"), of_topic(topics.dead_letter, "WRITE")),
            (of_group(GROUP, "READ"),),
            (of_topic(topics.status, "WRITE"), of_topic(topics.cancellations, "READ")),
        ]
        if self.options.dispatchers:
            rights[1:1] = [
                (of_topic(work.high, "WRITE"), of_topic(topics.urgent, "READ")),
                (of_group(DISPATCH_GROUP, "READ"), of_topic(work.workers, "WRITE")),
            ]
        return rights

    def names(self) -> list[str]:
        """The first names of workers and dispatchers; a toy keeps its prefix when it is replaced."""
        stand_ins = [f"worker-{n}" for n in range(1, self.options.workers - self.options.toy + 1)]
        toys = [f"toy-{n}" for n in range(1, self.options.toy + 1)]
        return stand_ins + toys + [f"{DISPATCHER}-{n}" for n in range(1, self.options.dispatchers + 1)]


@contextlib.contextmanager
def staged(options: Options) -> Iterator[Stage]:
    """Start everything but the workers in a fresh folder, and stop it."""
    folder = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("logs", "work", "toy"):
        (folder / part).mkdir(parents=True)
    if options.toy:
        from devtools.models.tiny import write_tiny  # torch takes seconds and half a gigabyte

        write_tiny(folder / "toy")
    session_ms = str(int(SESSION_TIMEOUT_S * 1000))
    settings = {"group.consumer.session.timeout.ms": session_ms, **BROKER_SETTINGS}
    ports = free_ports(BROKERS)
    kafka = KafkaCluster(BROKERS, folder / "kafka", settings=settings, listeners={LISTENER: ports})
    signed_in = ",".join(f"{LOOPBACK}:{port}" for port in ports)
    s3 = SeaweedFS(folder / "s3", BUCKET)
    topics = Topics()
    work = Topics(input="work") if options.dispatchers else topics
    with s3, kafka, S3Proxy(s3.port, options.seed) as proxy:
        for each in {topics, work}:
            create_topics(kafka.bootstrap_servers, each, PARTITIONS, replication_factor=BROKERS)
        yield Stage(options, kafka, signed_in, s3, proxy, topics, work, count(1))


def remove_data(options: Options) -> None:
    """Remove what the servers stored. Of a failed run it stays: Kafka's own dump tool reads it."""
    shutil.rmtree(options.folder / "s3" / "data", ignore_errors=True)
    for data in (options.folder / "kafka").glob("broker-*/data"):
        shutil.rmtree(data, ignore_errors=True)
