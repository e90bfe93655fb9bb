"""The configurations of the members: one assignor that moves little, and names of their own."""

from __future__ import annotations

from typing import Any

import pytest

from worker.intake.patience import SHARE
from worker.job import Lane
from worker.kafka_config import consumer_config, max_poll_interval_s, offsets_reader_config, producer_config
from worker.settings import Settings


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, worker_id="w1", **given)


def test_members_of_one_process_have_names_of_their_own() -> None:
    given = settings(kafka_properties={"group.instance.id": "node-7"})
    configs = [consumer_config(given, lane) for lane in Lane]
    assert [config["client.id"] for config in configs] == ["w1-urgent", "w1-high", "w1-normal"]
    # Two members of one instance id would throw each other out for ever.
    assert [c["group.instance.id"] for c in configs] == ["node-7-urgent", "node-7-high", "node-7-normal"]
    assert {config["group.id"] for config in configs} == {"sdxl-worker"}
    assert "group.instance.id" not in consumer_config(settings(), Lane.URGENT)


def test_other_clients_keep_the_workers_name() -> None:
    assert offsets_reader_config(settings())["client.id"] == producer_config(settings(), {})["client.id"] == "w1"


@pytest.mark.parametrize(
    ("protocol", "name", "assignor"),
    [
        ("consumer", "group.remote.assignor", "uniform"),
        ("classic", "partition.assignment.strategy", "cooperative-sticky"),
    ],
)
def test_the_assignor_moves_nothing_between_others(protocol: str, name: str, assignor: str) -> None:
    assert consumer_config(settings(kafka_group_protocol=protocol), Lane.HIGH)[name] == assignor


@pytest.mark.parametrize(("given", "interval_s"), [({}, 300.0), ({"max.poll.interval.ms": "60000"}, 60.0)])
def test_the_poll_interval_that_is_reckoned_with_is_the_members(given: dict[str, str], interval_s: float) -> None:
    config = consumer_config(settings(kafka_properties=given), Lane.NORMAL)
    assert int(config["max.poll.interval.ms"]) / 1000 == max_poll_interval_s(settings(kafka_properties=given))
    assert max_poll_interval_s(settings(kafka_properties=given)) == interval_s > SHARE * interval_s
