"""Lag, computed from the ledger's position and the end of the partition."""

from __future__ import annotations

from prometheus_client import REGISTRY

from worker.intake.lag import INTERVAL_S, Lag, LagGauge, LagMeter
from worker.intake.ledger import Ledger

TOPIC = "generation.requests.urgent"


class Members:
    """Watermarks as librdkafka caches them; -1001 before the first fetch."""

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}
        self.calls = 0

    def watermarks(self, _topic: str, partition: int) -> tuple[int, int]:
        self.calls += 1
        return (0, self.ends.get(partition, -1001))


class Ends:
    """Ends of paused partitions."""

    def __init__(self) -> None:
        self.asked: dict[tuple[str, int], int] = {}

    def end(self, key: tuple[str, int]) -> int | None:
        return self.asked.get(key)


def gauge(name: str, partition: int) -> float | None:
    return REGISTRY.get_sample_value(name, {"consumergroup": "g", "topic": TOPIC, "partition": str(partition)})


class TestMeter:
    def test_nothing_assigned_or_nothing_behind_is_no_lag(self) -> None:
        meter = LagMeter()
        assert meter.measure(None, 9, 100.0) == Lag(0, 0.0)
        assert meter.measure(9, 9, 100.0) == Lag(0, 0.0)

    def test_a_delivered_record_is_as_old_as_it_was_written(self) -> None:
        meter = LagMeter()
        meter.note(3, 40.0)
        meter.note(4, 45.0)
        assert meter.measure(3, 10, 100.0) == Lag(7, 60.0)
        assert meter.measure(4, 10, 100.0) == Lag(6, 55.0)

    def test_an_undelivered_record_ages_from_when_it_was_first_seen(self) -> None:
        meter = LagMeter()
        assert meter.measure(5, 6, 100.0) == Lag(1, 0.0)
        assert meter.measure(5, 8, 130.0) == Lag(3, 30.0)
        assert meter.measure(6, 8, 131.0) == Lag(2, 0.0)

    def test_a_clock_of_the_broker_that_runs_ahead_gives_no_negative_age(self) -> None:
        meter = LagMeter()
        meter.note(0, 101.0)
        assert meter.measure(0, 1, 100.0) == Lag(1, 0.0)

    def test_finished_records_are_forgotten(self) -> None:
        meter = LagMeter()
        for offset in range(1000):
            meter.note(offset, float(offset))
        meter.measure(990, 1000, 2000.0)
        assert len(meter._written) == 10


class TestGauge:
    def test_lag_is_from_the_lowest_unfinished_record_to_the_end(self) -> None:
        ledger, members = Ledger(), Members()
        lag = LagGauge(members, ledger, Ends(), "g", [TOPIC])  # type: ignore[arg-type]
        ledger.assign(TOPIC, 0, 10, None)
        members.ends[0] = 20
        first = ledger.deliver(TOPIC, 0, 10)
        second = ledger.deliver(TOPIC, 0, 12)
        assert first is not None
        assert second is not None
        lag.note(TOPIC, 0, 10, 950.0)
        lag.note(TOPIC, 0, 12, 990.0)
        ledger.finish([second])
        lag.sample(1000.0)
        assert (gauge("kafka_consumergroup_lag", 0), gauge("kafka_consumergroup_lag_seconds", 0)) == (10, 50)
        ledger.finish([first])
        lag.sample(1000.0 + INTERVAL_S)
        assert gauge("kafka_consumergroup_lag", 0) == 7

    def test_a_partition_without_watermarks_says_nothing(self) -> None:
        ledger, members = Ledger(), Members()
        lag = LagGauge(members, ledger, Ends(), "g", [TOPIC])  # type: ignore[arg-type]
        ledger.assign(TOPIC, 1, None, None)
        lag.sample(1000.0)
        assert gauge("kafka_consumergroup_lag", 1) is None

    def test_a_revoked_partition_disappears_and_the_owned_ones_are_counted(self) -> None:
        ledger, members = Ledger(), Members()
        lag = LagGauge(members, ledger, Ends(), "g", [TOPIC, "other"])  # type: ignore[arg-type]
        for partition in (2, 3):
            ledger.assign(TOPIC, partition, 0, None)
            members.ends[partition] = 5
        lag.sample(1000.0)
        assert gauge("kafka_consumergroup_lag", 2) == 5
        assert REGISTRY.get_sample_value("sdxl_worker_assigned_partitions", {"topic": TOPIC}) == 2
        assert REGISTRY.get_sample_value("sdxl_worker_assigned_partitions", {"topic": "other"}) == 0
        ledger.revoke([(TOPIC, 2)])
        lag.sample(1000.0 + INTERVAL_S)
        assert gauge("kafka_consumergroup_lag", 2) is None
        assert gauge("kafka_consumergroup_lag", 3) == 5

    def test_it_asks_librdkafka_once_in_an_interval(self) -> None:
        ledger, members = Ledger(), Members()
        lag = LagGauge(members, ledger, Ends(), "g", [TOPIC])  # type: ignore[arg-type]
        ledger.assign(TOPIC, 4, 0, None)
        for at in (1000.0, 1000.1, 1000.9, 1001.0):
            lag.sample(at)
        assert members.calls == 2

    def test_a_paused_partition_has_the_end_that_was_asked_for(self) -> None:
        """Its fetches have stopped, so librdkafka knows of no new records."""
        ledger, members, ends = Ledger(), Members(), Ends()
        lag = LagGauge(members, ledger, ends, "g", [TOPIC])  # type: ignore[arg-type]
        ledger.assign(TOPIC, 5, 0, None)
        members.ends[5] = 3
        ends.asked[TOPIC, 5] = 90
        lag.sample(1000.0)
        assert gauge("kafka_consumergroup_lag", 5) == 90
