"""The whole sender on a log in memory and a receiver on this machine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.webhooks.events import completed, failed
from tests.webhooks.stand_ins import CODEC, COMPLETED, FAILED, Consumer, Got, Log, Receiver
from worker.errors import RegistryUnavailable
from worker.telemetry import metrics
from worker.webhooks import attempts, queue, service
from worker.webhooks.sender import Sender
from worker.webhooks.service import Webhooks

KEYS = (b"n" * 32, b"o" * 32)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds."""
    monkeypatch.setattr(queue, "FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr(queue, "MAX_OWN_PAUSE_S", 0.01)
    monkeypatch.setattr(queue, "MAX_OWN_FAILURES", 4)
    monkeypatch.setattr(service, "IDLE_S", 0.001)
    monkeypatch.setattr(service, "COMMIT_EVERY_S", 0.005)
    monkeypatch.setattr(attempts, "REGISTRY_PAUSE_S", 0.005)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def deliver(
    log: Log,
    url: str,
    until: Callable[[], bool],
    *,
    consumer: Consumer | None = None,
    concurrency: int = 4,
    codec: Any = CODEC,
    timeout_s: float = 5.0,
) -> Consumer:
    """Run a sender until `until` holds, or fail after 20 s."""
    used = consumer or Consumer(log)
    deadline = time.monotonic() + 20

    def stopping() -> bool:
        assert time.monotonic() < deadline, "it did not come to an end"
        return until()

    async def run() -> None:
        async with Sender(url, KEYS, timeout_s, concurrency) as sender:
            kinds = {"concurrency": concurrency, "max_pause_s": 0.02, "drain_s": timeout_s}
            await Webhooks(used, (COMPLETED, FAILED), codec, sender, **kinds).run(stopping)  # type: ignore[arg-type]

    asyncio.run(run())
    assert used.closed
    return used


def given_up() -> float:
    value = metrics.WEBHOOKS.labels("given_up")._value.get()
    assert isinstance(value, float)
    return value


def test_every_result_arrives_once_and_is_committed(receiver: Receiver) -> None:
    log = Log()
    log.publish(*(completed(f"c{n}") for n in range(30)))
    log.publish(*(failed(f"f{n}") for n in range(10)), partition=1)
    deliver(log, receiver.url, lambda: len(receiver.got) == 40)
    assert sorted(receiver.jobs) == sorted([*(f"c{n}" for n in range(30)), *(f"f{n}" for n in range(10))])
    assert log.lag() == 0
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 40


def test_the_signature_holds_for_both_keys(receiver: Receiver) -> None:
    log = Log()
    log.publish(completed("job-1"))
    deliver(log, receiver.url, lambda: len(receiver.got) == 1)
    [got] = receiver.got
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    wanted = [f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}" for key in KEYS]
    assert got.headers["webhook-signature"].split() == wanted
    assert got.headers["content-type"] == "application/json"


def test_a_restart_sends_nothing_again(receiver: Receiver) -> None:
    log = Log()
    log.publish(completed("before"))
    deliver(log, receiver.url, lambda: len(receiver.got) == 1)
    log.publish(completed("after"))
    deliver(log, receiver.url, lambda: len(receiver.got) == 2)
    assert receiver.jobs == ["before", "after"]


def test_a_failure_is_tried_again_under_the_same_id_and_before_the_jobs_next(receiver: Receiver) -> None:
    log, answers = Log(), iter([500, 503, 204, 204])
    log.publish(completed("job", seed=1, sha256="1" * 64), completed("job", seed=2, sha256="2" * 64))
    receiver.answer = lambda _: next(answers)
    deliver(log, receiver.url, lambda: len(receiver.got) == 4)
    ids = [got.headers["webhook-id"] for got in receiver.got]
    assert len({*ids[:3]}) == 1
    assert ids[3] != ids[0]
    assert log.lag() == 0


def test_nothing_is_committed_past_what_the_receiver_does_not_take(receiver: Receiver) -> None:
    log = Log()
    log.publish(completed("good"), completed("bad"), completed("also-good"))
    receiver.answer = lambda got: 500 if got.job == "bad" else 204
    deliver(log, receiver.url, lambda: receiver.jobs.count("bad") >= 3 and "also-good" in receiver.jobs)
    assert log.committed[COMPLETED, 0] == 1


def test_one_that_never_passes_is_given_up_in_the_log_and_the_metric(receiver: Receiver) -> None:
    log, before = Log(), given_up()
    log.publish(completed("bad"))
    receiver.answer = lambda got: 500 if got.job == "bad" else 204
    traffic = iter(range(10_000))

    def done() -> bool:
        if receiver.jobs.count("bad") * 2 > len(receiver.got):
            log.publish(completed(f"good{next(traffic)}"), partition=1)
        return given_up() > before

    with capture_logs() as lines:
        deliver(log, receiver.url, done)
    [line] = [line for line in lines if line["event"] == "webhook_given_up"]
    assert (line["job_id"], line["topic"], line["partition"], line["offset"]) == ("bad", COMPLETED, 0, 0)
    assert log.committed[COMPLETED, 0] == 1


@pytest.mark.parametrize("status", [400, 410, 413, 422])
def test_a_refused_result_is_given_up_at_once_and_told(receiver: Receiver, status: int) -> None:
    log, before = Log(), given_up()
    log.publish(completed("no"), completed("yes"))
    receiver.answer = lambda got: (status, {}) if got.job == "no" else 204
    with capture_logs() as lines:
        deliver(log, receiver.url, lambda: given_up() > before and "yes" in receiver.jobs)
    assert receiver.jobs.count("no") == 1
    assert log.lag() == 0
    assert [line["status"] for line in lines if line["event"] == "webhook_given_up"] == [status]


@pytest.mark.parametrize("status", [401, 404, 429, 500, 307])
def test_a_receiver_that_is_not_set_up_yet_loses_nothing(receiver: Receiver, status: int) -> None:
    log, before = Log(), given_up()
    log.publish(*(completed(f"c{n}") for n in range(5)))
    deaf = [True]
    receiver.answer = lambda _: (status, {"location": receiver.url + "/elsewhere"}) if deaf[0] else 204

    def done() -> bool:
        if len(receiver.got) > 8:
            deaf[0] = False
        return log.lag() == 0

    deliver(log, receiver.url, done)
    assert set(receiver.jobs) == {f"c{n}" for n in range(5)}
    assert {got.path for got in receiver.got} == {"/hook"}, "a redirect was followed"
    assert given_up() == before


def test_a_receiver_that_is_down_is_waited_for(receiver: Receiver) -> None:
    log = Log()
    log.publish(*(completed(f"c{n}") for n in range(100)))
    with Receiver() as gone:
        url = gone.url
    began = time.monotonic()
    consumer = deliver(log, url, lambda: time.monotonic() - began > 0.3)
    assert log.committed.get((COMPLETED, 0), 0) == 0
    assert consumer.polled < 100, "it went on reading"
    deliver(log, receiver.url, lambda: log.lag() == 0)
    assert set(receiver.jobs) == {f"c{n}" for n in range(100)}


def test_a_slow_receiver_gets_no_more_at_once_than_the_bound(receiver: Receiver) -> None:
    log, gate = Log(), threading.Event()
    log.publish(*(completed(f"c{n}") for n in range(200)))

    def hold(_: Got) -> int:
        gate.wait(10)
        return 204

    receiver.answer = hold
    consumer = Consumer(log)

    def done() -> bool:
        if consumer.paused and len(receiver.got) >= 3:
            gate.set()
        return log.lag() == 0

    deliver(log, receiver.url, done, consumer=consumer, concurrency=3)
    assert receiver.most_at_once == 3
    assert len(receiver.got) == 200


def test_an_answer_that_does_not_come_ends_at_the_timeout(receiver: Receiver) -> None:
    log, gate = Log(), threading.Event()
    log.publish(completed("slow"))
    first = [True]

    def hold(_: Got) -> int:
        if first:
            first.pop()
            gate.wait(10)
        return 204

    receiver.answer = hold
    deliver(log, receiver.url, lambda: log.lag() == 0, timeout_s=0.2)
    gate.set()
    assert len(receiver.jobs) >= 2


def test_a_record_that_is_no_result_is_told_and_passed(receiver: Receiver) -> None:
    log, before = Log(), given_up()
    for value in (b"", None, b"\xc3\x01garbage", b"\x00\x00\x00\x00\x07x"):
        log.append(COMPLETED, 0, b"who", value)
    log.append(FAILED, 0, None, b"nobody's")
    log.publish(completed("good"))
    with capture_logs() as lines:
        deliver(log, receiver.url, lambda: log.lag() == 0)
    assert receiver.jobs == ["good"]
    assert given_up() == before + 5
    assert {line["offset"] for line in lines if line["event"] == "webhook_given_up"} == {0, 1, 2, 3}


def test_a_registry_that_is_away_is_waited_for(receiver: Receiver) -> None:
    log, refusals = Log(), [3]
    log.publish(completed("job"))

    class Codec:
        def decode_any(self, *given: Any, **named: Any) -> Any:
            if refusals[0]:
                refusals[0] -= 1
                raise RegistryUnavailable("away")
            return CODEC.decode_any(*given, **named)

    deliver(log, receiver.url, lambda: log.lag() == 0, codec=Codec())
    assert receiver.jobs == ["job"]


@pytest.mark.parametrize("how", ["on_revoke", "on_lost"])
def test_a_partition_that_goes_away_is_left_to_its_next_owner(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(service, "COMMIT_EVERY_S", 1_000.0)
    log = Log()
    # Of one job, so that the second is sent once the first has been delivered.
    log.publish(completed("job", seed=1, sha256="1" * 64), completed("job", seed=2, sha256="2" * 64))
    receiver.answer = lambda got: 500 if got.seed == 2 else 204
    consumer = Consumer(log)
    stuck_at_revoke: list[int] = []

    def stuck() -> int:
        return sum(got.seed == 2 for got in receiver.got)

    def done() -> bool:
        later = sum(got.job == "later" for got in receiver.got)
        if stuck() and not stuck_at_revoke:
            consumer.revoke([(COMPLETED, 0)], how)
            stuck_at_revoke.append(stuck())
        if stuck_at_revoke and later < 20 and len(log.records[COMPLETED, 1]) == later:
            log.publish(completed("later", sha256=f"{later:064}"), partition=1)
        return later == 20

    deliver(log, receiver.url, done, consumer=consumer)
    assert stuck() <= stuck_at_revoke[0] + 1, "it went on sending what is another member's"
    assert log.committed.get((COMPLETED, 0), 0) == (1 if how == "on_revoke" else 0)
    receiver.answer = lambda _: 204
    before = len(receiver.got)
    deliver(log, receiver.url, lambda: len(receiver.got) - before >= (1 if how == "on_revoke" else 2))
    assert [got.seed for got in receiver.got[before:]] == ([2] if how == "on_revoke" else [1, 2])
    assert log.lag() == 0


def test_a_partition_that_comes_back_is_begun_anew(receiver: Receiver) -> None:
    log = Log()
    log.publish(completed("stuck"))
    receiver.answer = lambda got: 500 if got.job == "stuck" else 204
    consumer = Consumer(log)
    happened: list[str] = []

    def done() -> bool:
        if "stuck" in receiver.jobs and not happened:
            happened.append("lost")
            consumer.revoke([(COMPLETED, 0)], "on_lost")
        elif happened == ["lost"] and (COMPLETED, 0) not in consumer.positions:
            happened.append("back")
            log.committed[COMPLETED, 0] = 1  # by the member that had it meanwhile
            log.publish(completed("after"))
            consumer.assign([(COMPLETED, 0)])
        return log.lag() == 0

    deliver(log, receiver.url, done, consumer=consumer)
    assert receiver.jobs.count("after") == 1


def test_a_partition_that_comes_back_is_read_although_it_was_paused(receiver: Receiver) -> None:
    log, consumer = Log(), None
    log.publish(completed("job"))
    consumer = Consumer(log)
    consumer.paused.add((COMPLETED, 0))
    deliver(log, receiver.url, lambda: log.lag() == 0, consumer=consumer)
    assert receiver.jobs == ["job"]


def test_requests_that_are_under_way_end_before_the_sender_does(receiver: Receiver) -> None:
    log, gate = Log(), threading.Event()
    log.publish(completed("last"))

    def hold(_: Got) -> int:
        gate.wait(10)
        return 204

    receiver.answer = hold

    def stopping() -> bool:
        if receiver.got:
            threading.Timer(0.1, gate.set).start()
        return bool(receiver.got)

    deliver(log, receiver.url, stopping)
    assert log.lag() == 0


def test_a_bug_ends_the_sender(receiver: Receiver) -> None:
    log = Log()
    log.publish(completed("job"))

    class Codec:
        def decode_any(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        deliver(log, receiver.url, lambda: False, codec=Codec())
    assert log.committed.get((COMPLETED, 0), 0) == 0
