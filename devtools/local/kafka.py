"""Apache Kafka on this machine: KRaft brokers in child processes."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from devtools.local.kafka_jars import check_java, kafka_jars, run_to_end
from devtools.local.kafka_java import class_archive, java, reading, writing
from devtools.local.kafka_properties import LOG4J_PROPERTIES, broker_properties
from devtools.local.process import LOOPBACK, ChildProcess, ProcessError, free_ports

START_TIMEOUT_S = 180.0
STOP_GRACE_S = 10.0
# Writing the archive of classes is part of a broker's end.
ARCHIVE_GRACE_S = 120.0
_ENDED_BY_SIGTERM = 128 + 15  # as a JVM tells it
FORMAT_TIMEOUT_S = 300.0
METADATA_TIMEOUT_S = 2.0


class KafkaCluster:
    """One broker, or a KRaft quorum of several combined controllers and brokers, on loopback ports.

    Brokers are numbered from 1, and keep their ports and data when they are stopped, killed and started again. With
    three brokers, internal topics and topics that specify nothing else have three replicas and `min.insync.replicas` 2,
    so the cluster survives the loss of any one broker. If `directory` holds the data of a stopped cluster, that cluster
    is continued.
    """

    def __init__(
        self,
        brokers: int = 1,
        directory: Path | str = ".local/kafka",
        ports: Sequence[int] | None = None,
        settings: Mapping[str, str] | None = None,
        listeners: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Describe a cluster: the folder of its data, its client ports, and properties that override the defaults.

        `listeners` are further ones, such as SSL: security protocol -> a port for each broker.
        """
        for given in (ports, *(listeners or {}).values()):
            if given is not None and len(given) != brokers:
                raise ValueError(f"{brokers} brokers need as many ports, not {len(given)}")
        free = free_ports(2 * brokers)
        self.directory = Path(directory).absolute()
        self._ports = list(ports) if ports is not None else free[:brokers]
        self._controller_ports = free[brokers:]
        self._settings = dict(settings or {})
        self._listeners = dict(listeners or {})
        self._processes: dict[int, ChildProcess] = {}
        self._jvm_options: list[str] = []

    @property
    def bootstrap_servers(self) -> str:
        """The brokers' addresses, in the form of `bootstrap.servers`."""
        return ",".join(f"{LOOPBACK}:{port}" for port in self._ports)

    @property
    def broker_ids(self) -> range:
        """The brokers' ids, from 1."""
        return range(1, len(self._ports) + 1)

    def start(self) -> None:
        """Start every broker, and return when all of them answer."""
        check_java()
        jars = kafka_jars()
        self._start(jars, reading(class_archive(jars, partial(_archive_classes, jars))))

    def _start(self, jars: Path, jvm_options: list[str]) -> None:
        self._jvm_options = jvm_options
        self._prepare(jars)
        for broker in self.broker_ids:
            self._processes[broker] = self._process(broker, jars)
        try:
            for process in self._processes.values():
                process.start()
            for broker in self.broker_ids:
                self._await(broker)
        except BaseException:
            self.kill_all()
            raise

    def stop(self) -> None:
        """Stop every broker, with SIGKILL if it has not ended within seconds."""
        for process in self._processes.values():
            process.terminate()
        # The last of several combined nodes waits for a quorum that no longer exists, so it gets a short grace period.
        grace_s = STOP_GRACE_S if len(self._processes) == 1 else STOP_GRACE_S / 4
        for process in self._processes.values():
            process.stop(grace_s)

    def kill_all(self) -> None:
        """SIGKILL every broker."""
        for process in self._processes.values():
            process.kill()

    def start_broker(self, broker: int) -> None:
        """Start a stopped or killed broker again on its old port, and return when it answers."""
        self._running(broker).start()
        self._await(broker)

    def stop_broker(self, broker: int) -> None:
        """Stop one broker (SIGTERM, then SIGKILL after a grace period)."""
        self._running(broker).stop(STOP_GRACE_S)

    def kill(self, broker: int) -> None:
        """SIGKILL one broker."""
        self._running(broker).kill()

    def suspend(self, broker: int) -> None:
        """Suspend one broker (SIGSTOP): its connections stay open, but it does not answer."""
        self._running(broker).suspend()

    def resume(self, broker: int) -> None:
        """Resume a suspended broker (SIGCONT)."""
        self._running(broker).resume()

    def pid(self, broker: int) -> int:
        """One broker's process id."""
        return self._running(broker).pid

    def log_path(self, broker: int) -> Path:
        """The file that one broker logs to."""
        return self._home(broker) / "server.log"

    def running(self, broker: int) -> bool:
        """Return whether one broker's process exists; a suspended one counts as running."""
        return broker in self._processes and self._processes[broker].running

    def __enter__(self) -> Self:
        """Start the cluster."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the cluster."""
        self.stop()

    def _running(self, broker: int) -> ChildProcess:
        if broker not in self._processes:
            raise ProcessError(f"broker {broker} was not started; the brokers are {list(self.broker_ids)}")
        return self._processes[broker]

    def _home(self, broker: int) -> Path:
        return self.directory / f"broker-{broker}"

    def _process(self, broker: int, jars: Path) -> ChildProcess:
        command = self._java(jars, "kafka.Kafka", str(self._home(broker) / "server.properties"))
        return ChildProcess(f"Kafka broker {broker}", command, self.log_path(broker))

    def _java(self, jars: Path, *arguments: str) -> list[str]:
        return java(jars, *arguments, log4j=self._log4j, options=self._jvm_options)

    @property
    def _log4j(self) -> Path:
        return self.directory / "log4j2.properties"

    def _prepare(self, jars: Path) -> None:
        """Write every broker's properties, and format the storage of new brokers."""
        for broker in self.broker_ids:
            self._home(broker).mkdir(parents=True, exist_ok=True)
            lines = [f"{key}={value}" for key, value in self._properties(broker).items()]
            (self._home(broker) / "server.properties").write_text("\n".join(lines) + "\n")
        self._log4j.write_text(LOG4J_PROPERTIES)
        fresh = [i for i in self.broker_ids if not (self._home(i) / "data" / "meta.properties").exists()]
        if not fresh:
            return
        cluster_id = base64.urlsafe_b64encode(b"\x01" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        with ThreadPoolExecutor(max_workers=len(fresh)) as pool:
            list(pool.map(lambda broker: self._format(broker, cluster_id, jars), fresh))

    def _format(self, broker: int, cluster_id: str, jars: Path) -> None:
        config = str(self._home(broker) / "server.properties")
        tool = ("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", config)
        command = self._java(jars, *tool)
        run_to_end(command, FORMAT_TIMEOUT_S, f"the storage of Kafka broker {broker} could not be formatted")

    def _properties(self, broker: int) -> dict[str, str]:
        further = {protocol: ports[broker - 1] for protocol, ports in self._listeners.items()}
        listeners = {"PLAINTEXT": self._ports[broker - 1], **further}
        data = self._home(broker) / "data"
        return broker_properties(broker, self._controller_ports, listeners, data) | self._settings

    def _await(self, broker: int) -> None:
        """Wait until this broker answers and has joined the cluster."""
        admin = AdminClient(
            {
                "bootstrap.servers": f"{LOOPBACK}:{self._ports[broker - 1]}",
                "reconnect.backoff.max.ms": 100,
                "log_level": 0,
            }
        )

        def ready() -> bool:
            try:
                return broker in admin.list_topics(timeout=METADATA_TIMEOUT_S).brokers
            except KafkaException:
                return False

        self._running(broker).wait_until(ready, START_TIMEOUT_S)


def _archive_classes(jars: Path, archive: Path) -> None:
    """Write the archive of the classes that a broker loads until it answers."""
    with TemporaryDirectory() as folder:
        cluster = KafkaCluster(1, folder)
        cluster._start(jars, writing(archive))
        for process in cluster._processes.values():
            process.stop(ARCHIVE_GRACE_S)
            if process.exit_code != _ENDED_BY_SIGTERM:  # killed while it wrote
                archive.unlink(missing_ok=True)
