"""The order in which webhooks are sent, and their pauses; the time is an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.webhooks.queue import MAX_OWN_FAILURES, MAX_OWN_PAUSE_S, Delivery, DeliveryQueue


def queue(concurrency: int = 4, jitter: float = 1.0) -> DeliveryQueue:
    return DeliveryQueue(concurrency, 60.0, lambda: jitter)


def add(q: DeliveryQueue, *jobs: str) -> list[Delivery]:
    made = [Delivery(job.encode(), ("t", 0, offset)) for offset, job in enumerate(jobs)]
    for delivery in made:
        q.add(delivery)
    return made


def take_all(q: DeliveryQueue, now: float) -> list[Delivery]:
    taken = []
    while (delivery := q.take(now)) is not None:
        taken.append(delivery)
    return taken


def test_jobs_go_side_by_side_and_one_jobs_results_one_after_the_other() -> None:
    q = queue()
    a1, a2, b = add(q, "a", "a", "b")
    assert take_all(q, 0) == [a1, b]
    q.delivered(b)
    assert q.take(0) is None
    q.delivered(a1)
    assert q.take(0) is a2


def test_no_more_than_the_bound_are_under_way() -> None:
    q = queue(concurrency=2)
    add(q, "a", "b", "c")
    assert len(take_all(q, 0)) == q.under_way == 2


def test_a_failed_result_keeps_its_turn_before_the_jobs_next() -> None:
    q = queue()
    first, second = add(q, "a", "a")
    assert q.take(0) is first
    assert q.failed(first, 0)
    assert q.take(0.9) is None
    assert q.take(1.0) is first
    q.refused(first)
    assert q.take(1.0) is second


def test_while_the_receiver_fails_one_is_tried_at_a_time_after_doubling_pauses() -> None:
    q = queue()
    add(q, *"abcdefgh")
    for delivery in take_all(q, 0):
        assert q.failed(delivery, 0)
    now, pauses = 0.0, []
    for _ in range(9):
        began = now
        while (probe := q.take(now)) is None:
            now += 0.5
        assert q.take(now) is None
        pauses.append(now - began)
        q.failed(probe, now)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert q.is_failing
    q.delivered(q.take(now + 60) or Delivery(b"", ("", 0, 0)))
    assert len(take_all(q, now + 60)) == 4
    assert not q.is_failing


def test_an_outage_gives_nothing_up() -> None:
    q = queue()
    [only] = add(q, "a")
    for attempt in range(1000):
        assert q.take(attempt * 100.0) is only
        assert q.failed(only, attempt * 100.0)
    assert len(q) == 1


def test_one_that_fails_while_others_succeed_is_given_up_in_the_end() -> None:
    q = queue()
    [bad] = add(q, "bad")
    now, failures = 0.0, 0
    while True:
        now += MAX_OWN_PAUSE_S
        assert q.take(now) is bad
        failures += 1
        if not q.failed(bad, now):
            break
        good = Delivery(b"good", ("t", 0, failures))
        q.add(good)
        now += 60
        assert q.take(now) is good
        q.delivered(good)
    assert failures == MAX_OWN_FAILURES + 1
    assert len(q) == 0


def test_a_bad_result_does_not_keep_the_others_waiting() -> None:
    q = queue()
    bad, *_ = add(q, "bad", "a", "b", "c")
    assert q.take(0) is bad
    q.failed(bad, 0)
    others = []
    now = 1.0
    while (delivery := q.take(now)) is not None:
        if delivery is bad:
            q.failed(bad, now)
            now += 1
            continue
        others.append(delivery.job)
        q.delivered(delivery)
    assert others == [b"a", b"b", b"c"]


def test_retry_after_is_kept() -> None:
    q = queue()
    [only] = add(q, "a")
    q.take(0)
    q.failed(only, 0, retry_after_s=90)
    assert q.take(89) is None
    assert q.take(90) is only


def test_half_of_a_pause_is_random() -> None:
    q = queue(jitter=0.0)
    [only] = add(q, "a")
    q.take(0)
    q.failed(only, 0)
    assert q.take(0.49) is None
    assert q.take(0.5) is only


def test_what_could_not_be_tried_is_no_failure() -> None:
    q = queue()
    a, b = add(q, "a", "b")
    assert q.take(0) is a
    q.postpone(a, 5)
    assert take_all(q, 1) == [b]
    assert q.take(5) is a
    assert a.attempts == 1


def test_a_partitions_deliveries_leave_together() -> None:
    q = queue()
    mine = Delivery(b"a", ("t", 0, 1))
    other = Delivery(b"a", ("t", 1, 1))
    q.add(mine)
    q.add(other)
    assert q.take(0) is mine
    assert q.remove([("t", 0)]) == [mine]
    assert (q.take(0), q.under_way, len(q)) == (other, 1, 1)


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=12),
    st.lists(st.sampled_from(["delivered", "refused", "failed", "postpone"]), max_size=60),
    st.integers(1, 4),
)
def test_whatever_happens_each_job_stays_in_order_and_all_are_done(
    jobs: list[str], fates: list[str], width: int
) -> None:
    q = queue(concurrency=width)
    add(q, *jobs)
    now, done = 0.0, []
    under_way: list[Delivery] = []
    script = iter(fates)
    while len(q):
        under_way += take_all(q, now)
        assert len(under_way) == q.under_way <= width
        assert len({delivery.job for delivery in under_way}) == len(under_way)
        now += 10
        if not under_way:
            continue
        delivery = under_way.pop(0)
        match next(script, "delivered"):
            case "failed":
                assert q.failed(delivery, now)
            case "postpone":
                q.postpone(delivery, now + 1)
            case "refused":
                q.refused(delivery)
                done.append(delivery)
            case _:
                q.delivered(delivery)
                done.append(delivery)
    for job in set(jobs):
        offsets = [d.place[2] for d in done if d.job == job.encode()]
        assert offsets == sorted(offsets)
    assert len(done) == len(jobs)
