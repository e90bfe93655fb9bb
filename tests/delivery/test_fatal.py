"""A producer that fails for good is replaced, whichever of its calls tells."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from worker.delivery.at_least_once import AtLeastOnce
from worker.delivery.reports import collect_reports
from worker.delivery.transport import Encoded, TryAgain

FATAL = KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "lost", fatal=True))
PASSING = KafkaException(KafkaError(KafkaError._TIMED_OUT, "slow"))
RECORD = Encoded("t", b"k", b"v", [])


class StubProducer:
    """Acknowledges on `flush`; the calls that are named raise, `poll` only as often as told."""

    def __init__(self, raising: dict[str, KafkaException], polls: int = 0) -> None:
        self._raising = raising
        self._polls = polls
        self._reports: list[Callable[[], None]] = []

    def produce(self, _topic: str, *, on_delivery: Callable[[Any, Any], None], **_record: Any) -> None:
        self._raise("produce")
        self._reports.append(lambda: on_delivery(None, SimpleNamespace(offset=lambda: 0)))

    def flush(self, _timeout: float) -> int:
        self._raise("flush")
        self._serve()
        return 0

    def poll(self, _timeout: float) -> int:
        if self._polls:
            self._polls -= 1
            raise FATAL
        self._serve()
        return 0

    def purge(self) -> None:
        """Nothing waits here."""

    def _serve(self) -> None:
        while self._reports:
            self._reports.pop()()

    def _raise(self, call: str) -> None:
        if call in self._raising:
            raise self._raising[call]


@pytest.mark.parametrize("call", ["produce", "flush"])
@pytest.mark.parametrize(("error", "made"), [(FATAL, 2), (PASSING, 1)])
def test_at_least_once_goes_on_with_a_new_producer_after_a_fatal_error(
    call: str, error: KafkaException, made: int
) -> None:
    producers: list[Any] = []

    def make() -> Any:
        producers.append(StubProducer({} if producers else {call: error}))
        return producers[-1]

    transport = AtLeastOnce(make, group=None)  # type: ignore[arg-type]  # no offsets are sent
    with pytest.raises(TryAgain):
        transport.send([RECORD], [])
    assert len(producers) == made
    if made == 2:
        transport.send([RECORD], [], again=True)


def test_reports_behind_a_fatal_error_are_collected() -> None:
    producer: Any = StubProducer({}, polls=1)
    reports: list[object] = []
    producer.produce("t", on_delivery=lambda error, _message: reports.append(error))
    collect_reports(producer)
    assert reports == [None]
