"""What becomes of a flush that did not pass: it is sent again, or taken apart, or an outcome is kept aside.

A flush that the brokers refuse is taken apart (`batch`) until the record that they refuse is alone; what cannot be
written at all is kept aside (`blocked`) and holds back its own partition only.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from worker.delivery.batch import Batch, Part, split, without_extras
from worker.delivery.blocked import FIRST_PAUSE_S, BlockedOutcomes, Cause
from worker.delivery.transport import Refused, TryAgain
from worker.errors import RegistryUnavailable
from worker.outcome import Outcome
from worker.telemetry import logs, metrics

_log = structlog.get_logger()

_RETRY_FIRST_S = 0.1
_RETRY_MAX_S = 5.0
# A record that is not acknowledged, while others of its flush are, is sent alone after this many tries.
_TRIES_BEFORE_SPLIT = 3


class Recovery:
    """Belongs to the publisher's thread; times are monotonic seconds.

    `after_failure` and `after_refusal` return how to go on: with the same batch after a pause in seconds, or at once
    with these batches in its place. `parts` is what was sent of the batch.

    `tries` counts the failures of the batch that is sent now, and `failure` says why the last one was.
    """

    def __init__(self, blocked: BlockedOutcomes) -> None:
        self._blocked = blocked
        self.tries = 0
        self.failure = ""

    def after_failure(
        self, batch: Batch, parts: list[Part], error: TryAgain | RegistryUnavailable, now: float
    ) -> float | list[Batch]:
        """Send it again after a pause; what is not acknowledged, again and again, goes alone and then aside.

        Nothing is left out of it: unlike a refusal, this passes.
        """
        self.tries += 1
        self.failure = str(error)
        suspects = error.suspects if isinstance(error, TryAgain) else {}
        if self.tries >= _TRIES_BEFORE_SPLIT and suspects:
            if batch.is_one_outcome:
                return self._block_first(batch, parts, suspects, now)
            if len(suspects) < len(parts):
                return split(batch, parts, suspects)
        pause: float = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2 ** (self.tries - 1))
        _log.warning("flush_failed", error=str(error), tries=self.tries, retry_in_s=pause, **_where(batch))
        return pause

    def after_refusal(self, batch: Batch, parts: list[Part], refused: Refused, now: float) -> float | list[Batch]:
        """Leave out what goes to topics that refuse everything, or take the flush apart."""
        self.failure = str(refused)
        _log.error("flush_refused", error=str(refused), causes=_texts(refused.causes), **_where(batch))
        of_topic = {index: cause for index, cause in refused.causes.items() if cause.of_topic}
        for index, cause in of_topic.items():
            self._blocked.refuse(parts[index].message.topic, cause, now + FIRST_PAUSE_S)
        results = {index for index in of_topic if parts[index].is_result}
        if not results and of_topic:
            # Without what goes to those topics, the same flush may pass.
            return [batch]
        for index in results:
            outcome = parts[index].owner
            assert isinstance(outcome, Outcome)
            batch.outcomes = [other for other in batch.outcomes if other is not outcome]
            self.keep_aside(outcome, parts[index].message.topic, of_topic[index], now)
        return [batch] if results else self._take_apart(batch, parts, refused.causes, now)

    def keep_aside(self, outcome: Outcome, topic: str, cause: Cause, now: float) -> None:
        """Block an outcome whose record for `topic` cannot be written now."""
        _log.error("outcome_blocked", to=topic, cause=cause.text, **logs.about_outcome(outcome))
        self._blocked.add(outcome, topic, cause, now)

    def _take_apart(
        self, batch: Batch, parts: list[Part], causes: Mapping[int, Cause], now: float
    ) -> float | list[Batch]:
        if not causes and not batch.outcomes and not batch.notices:
            # Offsets alone were refused: there is nothing to leave out.
            return self.after_failure(batch, parts, TryAgain(self.failure), now)
        if not batch.is_one_outcome:
            return split(batch, parts, causes)
        [outcome] = batch.outcomes
        smaller = without_extras(outcome, parts, causes)
        if smaller is not None:
            _log.error("result_made_smaller", causes=_texts(causes), **logs.about_outcome(outcome))
            metrics.LEFT_OUT.inc()
            return [Batch([smaller], touched=batch.touched)]
        return self._block_first(batch, parts, causes, now)

    def _block_first(self, batch: Batch, parts: list[Part], causes: Mapping[int, Cause], now: float) -> list[Batch]:
        """Keep the lone outcome aside and go on with what comes after it."""
        [outcome] = batch.outcomes
        index = next(iter(causes), 0)
        topic = parts[index].message.topic if parts else outcome.messages[0].topic
        self.keep_aside(outcome, topic, causes.get(index, Cause(self.failure)), now)
        return [Batch(touched=batch.touched)] if batch.touched else []


def _where(batch: Batch) -> dict[str, object]:
    """The first record that the batch is about, for a log line."""
    origins = [outcome.origin for outcome in batch.outcomes]
    origins += [job.origin for job, _ in batch.starts] + [notice.origin for notice in batch.notices]
    if not origins:
        return {"outcomes": 0}
    first = origins[0]
    return {
        "outcomes": len(batch.outcomes),
        "topic": first.topic,
        "partition": first.partition,
        "offset": first.offset,
    }


def _texts(causes: Mapping[int, Cause]) -> list[str]:
    return sorted({cause.text for cause in causes.values()})
