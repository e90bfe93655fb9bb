"""What is wrong with the cluster, from the facts about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from worker.cluster.facts import ClusterFacts, Presence
from worker.topics import DEAD_LETTER_MAX_BYTES, Topics

# Ids of 128 characters, URLs, an error message, fingerprints and headers; the prompts come on top.
RESULT_MAX_BYTES = 16 * 1024
# The `dlq-*` headers beside the original bytes.
DEAD_LETTER_HEADERS_MAX_BYTES = 4 * 1024
_UTF8_MAX_BYTES = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that keeps the worker from doing its work, in a sentence that says what to do.

    `certain`: the cluster itself said so; else it may be something that passes.
    """

    text: str
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker needs of its cluster, or a dispatcher.

    Args:
        dispatches: it passes requests on to the work topics and makes no pictures.
        max_prompt_chars: the longest prompt, of which the completed event holds two.
        offset_metadata_bytes: the largest metadata of a committed offset.
    """

    topics: Topics
    group: str
    max_prompt_chars: int
    offset_metadata_bytes: int
    dispatches: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The topics that have to be there."""
        return tuple(self.rights) if self.dispatches else self.topics.all

    @property
    def rights(self) -> dict[str, str]:
        """The operation that is carried out, by topic."""
        if self.dispatches:
            work = replace(self.topics, input="work")
            read = dict.fromkeys((*self.topics.requests, self.topics.workers), "READ")
            return read | dict.fromkeys((*work.requests, self.topics.dead_letter), "WRITE")
        read = dict.fromkeys((*self.topics.requests, self.topics.cancellations), "READ")
        reports = (self.topics.workers,) if self.topics.input == "work" else ()
        written = (self.topics.completed, self.topics.failed, self.topics.status, self.topics.dead_letter, *reports)
        return read | dict.fromkeys(written, "WRITE")


def problems(facts: ClusterFacts, needs: Needs) -> list[Problem]:
    """What is wrong for all that is known; what is unknown is taken to be right."""
    return [problem for found in problems_by_subject(facts, needs).values() for problem in found]


def problems_by_subject(facts: ClusterFacts, needs: Needs) -> dict[str, list[Problem]]:
    """`problems`, sorted into topics, partitions, rights and limits."""
    return {
        "topics": list(_absent(facts, needs)),
        "partitions": list(_unequal(facts, needs)),
        "rights": list(_forbidden(facts, needs)),
        "limits": list(_too_small(facts, needs)),
    }


def _absent(facts: ClusterFacts, needs: Needs) -> Iterator[Problem]:
    missing = [name for name in needs.names if facts.topics[name].presence is Presence.MISSING]
    unseen = [name for name in needs.names if facts.topics[name].presence is Presence.UNSEEN]
    create = "sdxl-worker topics create" + (" --dispatch" if needs.dispatches or needs.topics.input == "work" else "")
    cure = f"create it with `{create}`, or put KAFKA_TOPIC_PREFIX right"
    if len(missing) == len(needs.names):
        prefix = repr(needs.topics.prefix) if needs.topics.prefix else "no prefix"
        yield Problem(f"none of the topics exists with KAFKA_TOPIC_PREFIX {prefix}{_likely(facts, needs)}: {cure}")
        missing = []
    for name in missing:
        yield Problem(f"topic {name} does not exist: {cure}")
    for name in unseen:
        yield Problem(f"topic {name} is not in the cluster's list of topics: {cure}", certain=False)


def _likely(facts: ClusterFacts, needs: Needs) -> str:
    """The prefixes under which a whole set of request topics does exist."""
    prefixes = sorted(
        prefix
        for name in facts.others
        if (prefix := name.removesuffix(Topics().urgent)) != name and set(Topics(prefix).requests) <= facts.others
    )
    known = [repr(prefix) if prefix else "none" for prefix in prefixes if prefix != needs.topics.prefix][:3]
    return f" (the cluster has them with {', '.join(known)})" if known else ""


def _unequal(facts: ClusterFacts, needs: Needs) -> Iterator[Problem]:
    counts = {name: facts.topics[name].partitions for name in needs.topics.requests if facts.topics[name].partitions}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        yield Problem(
            f"the request topics must have the same number of partitions, but {found}: "
            f"raise the others to {max(counts.values())} with kafka-topics.sh --alter --partitions"
        )


def _forbidden(facts: ClusterFacts, needs: Needs) -> Iterator[Problem]:
    for name, right in needs.rights.items():
        topic = facts.topics[name]
        if topic.presence is Presence.HIDDEN:
            yield Problem(
                f"topic {name} cannot be seen by this Kafka user: grant {right} and DESCRIBE on it, and create it "
                f"if it does not exist"
            )
        elif topic.rights is not None and right not in topic.rights:
            yield Problem(f"topic {name}: this Kafka user has no right to {right}: grant it")
    if facts.group_rights is not None and "READ" not in facts.group_rights:
        yield Problem(f"consumer group {needs.group}: this Kafka user has no right to READ: grant it on the group")


def _too_small(facts: ClusterFacts, needs: Needs) -> Iterator[Problem]:
    for name, needed in _written_bytes(facts, needs).items():
        limit = facts.topics[name].max_message_bytes
        if limit is not None and limit < needed:
            yield Problem(
                f"topic {name}: max.message.bytes is {limit}, but records of up to {needed} bytes are written to it: "
                f"raise it to at least {needed}"
            )
    limit = facts.offset_metadata_max_bytes
    if limit is not None and limit < needs.offset_metadata_bytes:
        yield Problem(
            f"offset.metadata.max.bytes of the brokers is {limit}, but commits carry up to "
            f"{needs.offset_metadata_bytes} bytes: raise it to at least {needs.offset_metadata_bytes}"
        )


def _written_bytes(facts: ClusterFacts, needs: Needs) -> dict[str, int]:
    """The largest record that is written to each topic."""
    topics = needs.topics
    prompts = 2 * _UTF8_MAX_BYTES * needs.max_prompt_chars
    limits = [limit for name in topics.requests if (limit := facts.topics[name].max_message_bytes) is not None]
    # The producer itself refuses what is larger.
    original = min(max(limits, default=0) + DEAD_LETTER_HEADERS_MAX_BYTES, DEAD_LETTER_MAX_BYTES)
    if needs.dispatches:
        work = replace(topics, input="work")
        return dict.fromkeys((*work.requests, topics.dead_letter), original)
    return {
        topics.completed: RESULT_MAX_BYTES + prompts,
        topics.failed: RESULT_MAX_BYTES,
        topics.status: RESULT_MAX_BYTES,
        topics.dead_letter: original,
    }
