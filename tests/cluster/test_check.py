"""Every problem is one sentence that names the topic, the setting or right, and what to do; what is unknown is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker.cluster.check import Needs, Problem, problems
from worker.cluster.facts import ClusterFacts, Presence, TopicFacts
from worker.topics import DEAD_LETTER_MAX_BYTES, Topics, layouts

TOPICS = Topics("p.")
NEEDS = Needs(TOPICS, "group", max_prompt_chars=8_000, offset_metadata_bytes=4_096)
# Kafka's default `max.message.bytes`.
DEFAULT_MAX_BYTES = 1_048_588
PRESENT = TopicFacts(Presence.PRESENT, 4, frozenset({"READ", "WRITE", "DESCRIBE"}), DEFAULT_MAX_BYTES)
SOUND = ClusterFacts(
    {
        **dict.fromkeys(TOPICS.all, PRESENT),
        TOPICS.cancellations: replace(PRESENT, partitions=1),
        TOPICS.dead_letter: replace(PRESENT, partitions=1, max_message_bytes=DEAD_LETTER_MAX_BYTES),
    },
    group_rights=frozenset({"READ"}),
    offset_metadata_max_bytes=4_096,
)


def texts(facts: ClusterFacts) -> list[str]:
    return [problem.text for problem in problems(facts, NEEDS)]


def changed(topic: str, facts: ClusterFacts = SOUND, **fields: object) -> ClusterFacts:
    return replace(facts, topics={**facts.topics, topic: replace(facts.topics[topic], **fields)})  # type: ignore[arg-type]


def test_a_sound_cluster_has_no_problem() -> None:
    assert problems(SOUND, NEEDS) == []


def test_what_is_unknown_is_no_problem() -> None:
    unknown = dict.fromkeys(TOPICS.all, TopicFacts(Presence.PRESENT, 4))
    assert problems(ClusterFacts(unknown), NEEDS) == []


@pytest.mark.parametrize("topic", TOPICS.all)
def test_a_missing_topic_is_named_with_the_command_that_creates_it(topic: str) -> None:
    [text] = texts(changed(topic, presence=Presence.MISSING, partitions=0, rights=None, max_message_bytes=None))
    assert text.startswith(f"topic {topic} does not exist: create it with `sdxl-worker topics create`")


class TestPrefix:
    MISSING = ClusterFacts(dict.fromkeys(TOPICS.all, TopicFacts(Presence.MISSING)))

    def test_a_wrong_prefix_is_one_problem(self) -> None:
        [text] = texts(self.MISSING)
        assert "none of the topics exists with KAFKA_TOPIC_PREFIX 'p.':" in text

    def test_the_prefix_in_another_case_is_suggested(self) -> None:
        [text] = texts(replace(self.MISSING, others=frozenset(Topics("P.").all)))
        assert "(the cluster has them with 'P.')" in text

    def test_topics_without_a_prefix_are_suggested(self) -> None:
        [text] = texts(replace(self.MISSING, others=frozenset(Topics().all)))
        assert "(the cluster has them with none)" in text

    def test_one_topic_of_that_name_is_no_suggestion(self) -> None:
        [text] = texts(replace(self.MISSING, others=frozenset({Topics("q.").urgent})))
        assert "the cluster has" not in text


def test_a_topic_that_nobody_could_be_asked_about_is_no_certain_problem() -> None:
    [problem] = problems(changed(TOPICS.failed, presence=Presence.UNSEEN, partitions=0), NEEDS)
    assert not problem.certain
    assert TOPICS.failed in problem.text


class TestPartitions:
    def test_unequal_counts_are_told_with_all_three(self) -> None:
        [text] = texts(changed(TOPICS.high, partitions=1))
        for part in (
            f"{TOPICS.urgent} has 4",
            f"{TOPICS.high} has 1",
            f"{TOPICS.normal} has 4",
            "raise the others to 4",
        ):
            assert part in text

    def test_a_missing_topic_is_not_unequal_as_well(self) -> None:
        assert len(texts(changed(TOPICS.high, presence=Presence.MISSING, partitions=0))) == 1

    def test_other_topics_may_have_other_counts(self) -> None:
        assert texts(changed(TOPICS.completed, partitions=7)) == []


class TestRights:
    @pytest.mark.parametrize(
        ("topic", "right"),
        [
            *((topic, "READ") for topic in (*TOPICS.requests, TOPICS.cancellations)),
            *((topic, "WRITE") for topic in (TOPICS.completed, TOPICS.failed, TOPICS.status, TOPICS.dead_letter)),
        ],
    )
    def test_a_missing_right_is_named(self, topic: str, right: str) -> None:
        [text] = texts(changed(topic, rights=frozenset({"DESCRIBE", "READ", "WRITE"} - {right})))
        assert f"topic {topic}: this Kafka user has no right to {right}" in text
        other = {"READ": "WRITE", "WRITE": "READ"}[right]
        assert texts(changed(topic, rights=frozenset({"DESCRIBE", "READ", "WRITE"} - {other}))) == []

    def test_a_hidden_topic_is_one_problem(self) -> None:
        [text] = texts(changed(TOPICS.status, presence=Presence.HIDDEN, partitions=0, rights=None))
        assert f"topic {TOPICS.status} cannot be seen by this Kafka user: grant WRITE and DESCRIBE" in text

    def test_the_group_must_be_readable(self) -> None:
        [text] = texts(replace(SOUND, group_rights=frozenset()))
        assert "consumer group group: this Kafka user has no right to READ" in text


class TestSizes:
    @pytest.mark.parametrize("topic", [TOPICS.completed, TOPICS.failed, TOPICS.status, TOPICS.dead_letter])
    def test_a_small_limit_is_told_with_the_size_that_is_needed(self, topic: str) -> None:
        [text] = texts(changed(topic, max_message_bytes=1_000))
        assert f"topic {topic}: max.message.bytes is 1000, but records of up to " in text
        needed = int(text.rpartition(" ")[2])
        assert texts(changed(topic, max_message_bytes=needed)) == []
        assert len(texts(changed(topic, max_message_bytes=needed - 1))) == 1

    def test_a_dead_letter_must_hold_the_largest_request(self) -> None:
        larger = changed(TOPICS.normal, max_message_bytes=1_500_000)
        assert texts(larger) == []
        [text] = texts(changed(TOPICS.dead_letter, larger, max_message_bytes=1_500_000))
        assert f"topic {TOPICS.dead_letter}: max.message.bytes is 1500000" in text

    def test_more_than_the_producer_sends_is_not_asked_for(self) -> None:
        assert texts(changed(TOPICS.normal, max_message_bytes=10_000_000)) == []

    def test_requests_of_any_size_are_taken(self) -> None:
        assert texts(changed(TOPICS.urgent, max_message_bytes=100)) == []

    def test_the_brokers_must_take_the_metadata_of_offsets(self) -> None:
        [text] = texts(replace(SOUND, offset_metadata_max_bytes=4_095))
        assert "offset.metadata.max.bytes of the brokers is 4095" in text


def test_the_topics_that_are_created_here_are_sound() -> None:
    created = {
        name: TopicFacts(
            Presence.PRESENT, layout.partitions, None, int(layout.config.get("max.message.bytes", DEFAULT_MAX_BYTES))
        )
        for name, layout in layouts(TOPICS, 12).items()
    }
    assert problems(ClusterFacts(created), NEEDS) == []


def test_several_problems_are_all_told() -> None:
    facts = changed(
        TOPICS.failed, changed(TOPICS.high, partitions=2), presence=Presence.MISSING, max_message_bytes=None
    )
    assert [type(problem) for problem in problems(facts, NEEDS)] == [Problem, Problem]
