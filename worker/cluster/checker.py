"""The cluster that the settings name: the check at the start, and the one that the watch repeats."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import structlog

from worker import kafka_config
from worker.cluster.check import Needs, Problem, problems
from worker.cluster.child import ask_apart
from worker.cluster.contact import Contact
from worker.cluster.facts import ClusterUnavailable
from worker.errors import ClusterError
from worker.intake.offset_metadata import MAX_BYTES
from worker.settings import Settings
from worker.topics import Topics

_log = structlog.get_logger()

# A wrong address is told within seconds; a running worker waits for the end of an outage and is not ready.
START_TIMEOUT_S = 5.0
# A topic that has just been created is not known to every broker yet.
CONFIRM_AFTER_S = 2.0


class ClusterChecker:
    """Asks by a process of its own for each check: checks are rare, and the admin client may crash (`child`).

    Args:
        config: of the admin client; plain values only.
    """

    def __init__(self, config: Mapping[str, Any], needs: Needs) -> None:
        self.servers = str(config["bootstrap.servers"])
        self._config = config
        self._needs = needs
        self.contact = Contact(time.monotonic)

    def check(self, timeout_s: float) -> list[Problem]:
        """What is wrong; waits `timeout_s` for a broker. Raises ClusterUnavailable."""
        facts = ask_apart(self._config, self._needs.names, self._needs.group, timeout_s)
        return problems(facts, self._needs)


def make_checker(settings: Settings, *, dispatches: bool = False) -> ClusterChecker:
    """What asks the cluster that the settings name."""
    return ClusterChecker(kafka_config.admin_config(settings), needs_of(settings, dispatches=dispatches))


def needs_of(settings: Settings, *, dispatches: bool = False) -> Needs:
    """What a worker with these settings needs, or a dispatcher."""
    if dispatches:
        topics = Topics(settings.kafka_topic_prefix)
        return Needs(topics, settings.dispatch_group_id, settings.max_prompt_chars, MAX_BYTES, dispatches=True)
    topics = Topics(settings.kafka_topic_prefix, settings.input)
    return Needs(topics, settings.kafka_group_id, settings.max_prompt_chars, MAX_BYTES)


def require(checker: ClusterChecker) -> None:
    """Check the cluster before the models are loaded. One that does not answer is logged, and the start goes on.

    Raises:
        ClusterError: something is wrong for certain; a line for each.
    """
    try:
        found = _certain(checker.check(START_TIMEOUT_S))
        if found:
            threading.Event().wait(CONFIRM_AFTER_S)
            found = _certain(checker.check(START_TIMEOUT_S))
    except ClusterUnavailable as error:
        _log.warning("kafka_unavailable", servers=checker.servers, reason=str(error))
        return
    if found:
        raise ClusterError("\n".join(found))


def _certain(found: list[Problem]) -> list[str]:
    return [problem.text for problem in found if problem.certain]
