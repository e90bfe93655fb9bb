"""What is asked of a cluster, and what becomes of each answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from tests.cluster.fakes import FakeAdmin, failed, operations
from worker.cluster.facts import ClusterFacts, ClusterUnavailable, ErrorCallback, Presence, TopicFacts, ask

TOPICS = ("a", "b")


def facts(admin: FakeAdmin) -> ClusterFacts:
    def make(on_error: ErrorCallback) -> AdminClient:
        admin.on_error = on_error
        return cast("AdminClient", admin)

    return ask(make, TOPICS, "group", timeout_s=0)


SOUND = FakeAdmin(
    {"a": 3, "b": 4, "other": 1},
    {"a": operations("READ", "DESCRIBE"), "b": operations("WRITE")},
    {"a": {"max.message.bytes": "100"}, "b": {"max.message.bytes": "200"}, "1": {"offset.metadata.max.bytes": "4096"}},
    operations("READ"),
)


def test_a_cluster_that_tells_everything() -> None:
    assert facts(SOUND) == ClusterFacts(
        {
            "a": TopicFacts(Presence.PRESENT, 3, frozenset({"READ", "DESCRIBE"}), 100),
            "b": TopicFacts(Presence.PRESENT, 4, frozenset({"WRITE"}), 200),
        },
        frozenset({"other"}),
        frozenset({"READ"}),
        4096,
    )


def test_a_topic_that_the_broker_does_not_know_is_missing() -> None:
    assert facts(replace(SOUND, listed={"a": 3})).topics["b"] == TopicFacts(Presence.MISSING)


def test_a_topic_that_may_not_be_described_is_hidden() -> None:
    refused = failed(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    found = facts(replace(SOUND, listed={"a": 3}, described={"b": refused}))
    assert found.topics["b"] == TopicFacts(Presence.HIDDEN)


@pytest.mark.parametrize(
    "code", [KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION, KafkaError._TIMED_OUT]
)
def test_where_topics_cannot_be_described_the_list_counts(code: int) -> None:
    found = facts(replace(SOUND, listed={"a": 3}, described=dict.fromkeys(TOPICS, failed(code))))
    assert found.topics == {"a": TopicFacts(Presence.PRESENT, 3, None, 100), "b": TopicFacts(Presence.UNSEEN)}


def test_a_broker_that_does_not_tell_rights_leaves_them_unknown() -> None:
    found = facts(replace(SOUND, described={"a": None, "b": []}, group=None))
    assert [topic.rights for topic in found.topics.values()] == [None, None]
    assert found.group_rights is None


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError._TIMED_OUT]
)
def test_settings_that_may_not_be_seen_are_unknown(code: int) -> None:
    found = facts(replace(SOUND, configs=dict.fromkeys(("a", "b", "1"), failed(code))))
    assert [topic.max_message_bytes for topic in found.topics.values()] == [None, None]
    assert found.offset_metadata_max_bytes is None


def test_settings_that_a_managed_cluster_leaves_out_are_unknown() -> None:
    found = facts(replace(SOUND, configs={"a": {}, "b": {"max.message.bytes": "unlimited"}, "1": {}}))
    assert [topic.max_message_bytes for topic in found.topics.values()] == [None, None]
    assert found.offset_metadata_max_bytes is None


@pytest.mark.parametrize(
    ("answer", "rights"),
    [
        (failed(KafkaError.GROUP_AUTHORIZATION_FAILED), frozenset()),
        (failed(KafkaError.TOPIC_AUTHORIZATION_FAILED), None),
        (failed(KafkaError.GROUP_ID_NOT_FOUND), None),
        (failed(KafkaError._TIMED_OUT), None),
        (operations("DESCRIBE"), frozenset({"DESCRIBE"})),
    ],
)
def test_rights_on_the_group(answer: Any, rights: frozenset[str] | None) -> None:
    assert facts(replace(SOUND, group=answer)).group_rights == rights


def test_the_smallest_limit_of_a_few_brokers_counts() -> None:
    limits = {str(n): {"offset.metadata.max.bytes": str(5000 - n)} for n in range(1, 9)}
    assert facts(replace(SOUND, brokers=range(1, 9), configs=limits)).offset_metadata_max_bytes == 4997


def test_a_cluster_without_a_controller_is_asked_nothing_that_needs_one() -> None:
    admin = replace(SOUND, controller=-1, listed={"a": 3}, asked=[])
    assert facts(admin).topics == {"a": TopicFacts(Presence.PRESENT, 3), "b": TopicFacts(Presence.UNSEEN)}
    assert admin.asked == []


def test_a_question_that_is_not_even_sent_leaves_the_list() -> None:
    class Refusing(FakeAdmin):
        def describe_topics(self, *_: Any, **__: Any) -> Any:
            raise failed(KafkaError._INVALID_ARG)

    assert facts(Refusing({"a": 3})).topics == {
        "a": TopicFacts(Presence.PRESENT, 3),
        "b": TopicFacts(Presence.UNSEEN),
    }


def test_an_outage_is_told_with_the_reason_of_the_connection() -> None:
    told = "kafka:9092/bootstrap: Failed to resolve 'kafka:9092'"
    with pytest.raises(ClusterUnavailable, match="Failed to resolve 'kafka:9092'"):
        facts(replace(SOUND, unreachable=[told, "1/1 brokers are down"]))
