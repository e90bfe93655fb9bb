"""The brokers, the topics, their partitions, and the rights and limits that the cluster tells of itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from confluent_kafka.admin import AdminClient

from worker import kafka_config
from worker.cluster.check import Needs, Problem, problems_by_subject
from worker.cluster.checker import needs_of
from worker.cluster.facts import ClusterFacts, ClusterUnavailable, Presence, ask
from worker.cluster.group import member_names
from worker.doctor.finding import Finding, failed, ok, skipped, warning
from worker.settings import Settings

ANSWER_S = 10.0
_SUBJECTS = ("topics", "partitions", "rights", "limits")


def check(settings: Settings) -> Iterator[Finding]:
    """Ask the cluster; what it does not tell is said to be unknown."""
    servers, needs = settings.kafka_bootstrap_servers, needs_of(settings)
    config = kafka_config.admin_config(settings)
    began = time.monotonic()
    try:
        facts = ask(
            lambda on_error: AdminClient(config | {"error_cb": on_error}), needs.topics.all, needs.group, ANSWER_S
        )
    except ClusterUnavailable as error:
        yield failed(
            "broker",
            f"Kafka at {servers} does not answer: {error}",
            "see that KAFKA_BOOTSTRAP_SERVERS, the network and KAFKA_SECURITY_PROTOCOL or KAFKA_SASL_… are right",
        )
        yield from (skipped(subject, "not looked at, since no broker answers") for subject in _SUBJECTS)
        return
    yield ok("broker", f"Kafka answers at {servers} ({time.monotonic() - began:.1f} s for all questions)")
    found = problems_by_subject(facts, needs)
    for subject in _SUBJECTS:
        yield from (_finding(subject, problem) for problem in found[subject])
        if not found[subject]:
            yield _sound(subject, facts, needs)
    yield _workers(AdminClient(config | {"error_cb": lambda _error: None}), needs.group)


def _finding(subject: str, problem: Problem) -> Finding:
    what, _, cure = problem.text.partition(": ")
    # A topic's problem begins with its name and a colon.
    if what.startswith(("topic ", "consumer group ")) and ": " in cure:
        more, _, cure = cure.partition(": ")
        what = f"{what}: {more}"
    return (failed if problem.certain else warning)(subject, what, cure)


def _sound(subject: str, facts: ClusterFacts, needs: Needs) -> Finding:
    topics = facts.topics
    match subject:
        case "topics":
            return ok(subject, f"all {len(needs.topics.all)} are there ({needs.topics.urgent} and so on)")
        case "partitions":
            counts = Counter(topics[name].partitions for name in needs.topics.requests if topics[name].partitions)
            if not counts:
                return skipped(subject, "not known, since the request topics are not there")
            return ok(subject, f"{next(iter(counts))} of each request topic: as many workers can share them")
        case "rights":
            told = [name for name in needs.rights if topics[name].rights is not None]
            if not told or any(topics[name].presence is not Presence.PRESENT for name in needs.topics.all):
                return skipped(subject, "the cluster does not tell what this Kafka user may do")
            return ok(subject, f"READ and WRITE as a worker needs them on {len(told)} topics")
        case _:
            known = any(topics[name].max_message_bytes is not None for name in needs.topics.all)
            if not known:
                return skipped(subject, "the cluster does not tell its limits")
            return ok(subject, "max.message.bytes and offset.metadata.max.bytes are large enough")


def _workers(admin: AdminClient, group: str) -> Finding:
    names = member_names(admin, group)
    if names is None:
        return skipped("workers", f"the members of the group {group} are not told")
    if not names:
        return ok("workers", f"none is in the group {group} now")
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return ok("workers", f"{len(names)} in the group {group}: {shown}")
