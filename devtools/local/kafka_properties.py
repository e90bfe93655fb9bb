"""The properties of local Kafka brokers: combined KRaft nodes that take little memory and notice deaths quickly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from devtools.local.process import LOOPBACK

LOG4J_PROPERTIES = """\
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c)%n
"""

LAPTOP_PROPERTIES: Mapping[str, str] = {
    "auto.create.topics.enable": "false",
    # To save memory: few threads, few internal partitions, little preallocation.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.num.partitions": "2",
    "log.index.size.max.bytes": "1048576",
    "log.cleaner.dedupe.buffer.size": "16777216",
    # For quick restarts: a killed broker can only register again when its old session has expired.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "controlled.shutdown.max.retries": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # Dead members are noticed within seconds. With KIP-848 only the broker's setting decides that.
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "10000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "1000",
}


def broker_properties(
    broker: int, controller_ports: Sequence[int], listeners: Mapping[str, int], data: Path
) -> dict[str, str]:
    """The properties of one broker of a cluster.

    Args:
        broker: its id; ids count from 1.
        controller_ports: of all brokers, in the order of their ids.
        listeners: the ports for clients, by security protocol.
        data: the folder of its logs.
    """
    voters = ",".join(f"{i}@{LOOPBACK}:{port}" for i, port in enumerate(controller_ports, 1))
    clients = ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items())
    return {
        "process.roles": "broker,controller",
        "node.id": str(broker),
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "listeners": f"{clients},CONTROLLER://{LOOPBACK}:{controller_ports[broker - 1]}",
        "advertised.listeners": clients,
        "log.dirs": str(data),
        **_replication(min(3, len(controller_ports))),
        **LAPTOP_PROPERTIES,
    }


def _replication(replicas: int) -> dict[str, str]:
    in_sync = str(max(1, replicas - 1))
    factor = str(replicas)
    return {
        "default.replication.factor": factor,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": factor,
        "transaction.state.log.replication.factor": factor,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": factor,
        "share.coordinator.state.topic.min.isr": in_sync,
    }
