"""librdkafka's mock broker, which is part of confluent-kafka: Kafka for a demo or a quick test, without Java."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_int32, c_size_t, c_void_p
from types import TracebackType
from typing import Self

from confluent_kafka import cimpl

from worker.topics import Topics, layouts

_RD_KAFKA_PRODUCER = 0  # rd_kafka_type_t
_ERROR_BYTES = 512
_FIRST_JOIN_MS = 500


class EmbeddedBrokerError(RuntimeError):
    """librdkafka rejected a call to its mock cluster."""


class EmbeddedBroker:
    """A mock cluster on background threads of this process; any process on this machine can connect to it.

    Consumer groups (classic and KIP-848) and commits work, also with kcat. Transaction calls succeed, but isolate
    nothing and store no offsets. Records are kept in memory. Offsets by time, retention, and the creation of topics by
    clients are not supported, so a test that passes here proves nothing about them. Topics are created by
    `create_topic`; a topic that is used without it is created with 4 partitions. Everything ends with `stop()` or with
    the process.
    """

    def __init__(self, brokers: int = 1) -> None:
        """Describe a cluster of `brokers` mock brokers, with ids from 1."""
        self._brokers = brokers
        self._client: int | None = None
        self._cluster: int | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The brokers' addresses on 127.0.0.1, in the form of `bootstrap.servers`."""
        address: bytes = _RDKAFKA.rd_kafka_mock_cluster_bootstraps(self._running())
        return address.decode()

    @property
    def running(self) -> bool:
        """Whether the cluster is running."""
        return self._cluster is not None

    def start(self) -> None:
        """Start the cluster; it answers when this returns."""
        if self._cluster is not None:
            raise EmbeddedBrokerError("the embedded broker is already running")
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        # The mock cluster needs a client handle of its own, which connects to nothing.
        quiet = _RDKAFKA.rd_kafka_conf_new()
        _RDKAFKA.rd_kafka_conf_set(quiet, b"log_level", b"0", error, _ERROR_BYTES)
        self._client = _RDKAFKA.rd_kafka_new(_RD_KAFKA_PRODUCER, quiet, error, _ERROR_BYTES)
        if self._client is None:
            raise EmbeddedBrokerError(f"librdkafka created no client: {error.value.decode()}")
        self._cluster = _RDKAFKA.rd_kafka_mock_cluster_new(self._client, self._brokers)
        if self._cluster is None:
            self.stop()
            raise EmbeddedBrokerError("librdkafka created no mock cluster")
        # By default, the first join of a classic group waits 3 s for more members; those that come too late wait for
        # nearly the session timeout. A worker has three.
        _RDKAFKA.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, _FIRST_JOIN_MS)

    def stop(self) -> None:
        """Stop the cluster and delete its records; does nothing if it is not running."""
        if self._cluster is not None:
            _RDKAFKA.rd_kafka_mock_cluster_destroy(self._cluster)
            self._cluster = None
        if self._client is not None:
            _RDKAFKA.rd_kafka_destroy(self._client)
            self._client = None

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic; raises `EmbeddedBrokerError` if it exists."""
        replicas = min(self._brokers, 3)
        code = _RDKAFKA.rd_kafka_mock_topic_create(self._running(), name.encode(), partitions, replicas)
        _check(code, f"topic {name} could not be created")

    def create_topics(self, topics: Topics | None = None, partitions: int = 4) -> None:
        """Create all topics of the worker, with the partition counts from `worker.topics`."""
        for name, layout in layouts(topics or Topics(), partitions).items():
            self.create_topic(name, layout.partitions)

    def take_down(self, broker: int) -> None:
        """Close a broker's connections and accept none, as if it had failed; it keeps its records."""
        code = _RDKAFKA.rd_kafka_mock_broker_set_down(self._running(), broker)
        _check(code, f"broker {broker} could not be taken down")

    def bring_up(self, broker: int) -> None:
        """Let a broker that was taken down accept connections again."""
        code = _RDKAFKA.rd_kafka_mock_broker_set_up(self._running(), broker)
        _check(code, f"broker {broker} could not be brought up")

    def set_latency(self, broker: int, milliseconds: int) -> None:
        """Delay every response of a broker."""
        code = _RDKAFKA.rd_kafka_mock_broker_set_rtt(self._running(), broker, milliseconds)
        _check(code, f"the latency of broker {broker} could not be set")

    def __enter__(self) -> Self:
        """Start the cluster."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the cluster."""
        self.stop()

    def _running(self) -> int:
        if self._cluster is None:
            raise EmbeddedBrokerError("the embedded broker is not running")
        return self._cluster


def _check(code: int, complaint: str) -> None:
    if code != 0:
        reason: bytes = _RDKAFKA.rd_kafka_err2str(code)
        raise EmbeddedBrokerError(f"{complaint}: {reason.decode()}")


def _librdkafka() -> ctypes.CDLL:
    """Return the librdkafka that confluent-kafka uses, with the prototypes from its public headers.

    Symbols of a shared object are also looked up in its dependencies, so confluent-kafka's own module gives access to
    its librdkafka, wherever the wheel has put it.
    """
    library = ctypes.CDLL(cimpl.__file__)
    prototypes = {
        "rd_kafka_conf_new": (c_void_p, []),
        "rd_kafka_conf_set": (c_int, [c_void_p, c_char_p, c_char_p, c_char_p, c_size_t]),
        "rd_kafka_new": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
        "rd_kafka_destroy": (None, [c_void_p]),
        "rd_kafka_err2str": (c_char_p, [c_int]),
        "rd_kafka_mock_cluster_new": (c_void_p, [c_void_p, c_int]),
        "rd_kafka_mock_cluster_destroy": (None, [c_void_p]),
        "rd_kafka_mock_cluster_bootstraps": (c_char_p, [c_void_p]),
        "rd_kafka_mock_topic_create": (c_int, [c_void_p, c_char_p, c_int, c_int]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [c_void_p, c_int32]),
        "rd_kafka_mock_broker_set_down": (c_int, [c_void_p, c_int32]),
        "rd_kafka_mock_broker_set_up": (c_int, [c_void_p, c_int32]),
        "rd_kafka_mock_broker_set_rtt": (c_int, [c_void_p, c_int32, c_int]),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_RDKAFKA = _librdkafka()
