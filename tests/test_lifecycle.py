"""Whose an id is, and what the status topic says of it, from admission to the publisher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from tests.delivery.conftest import sample_picture, sample_request
from tests.sim.worker import MODEL, SETTINGS
from worker.delivery.encode import EncodedPicture
from worker.delivery.finish import Finisher
from worker.delivery.keys import Keys, object_keys
from worker.delivery.manifest import dump_manifest
from worker.delivery.messages import MessageWriter
from worker.delivery.publish import Start
from worker.delivery.retry_queue import RetryQueue
from worker.delivery.stored_manifest import load_manifest
from worker.engine_interface import EngineHooks
from worker.errors import ErrorCode, StoreUnavailable
from worker.events.types import GenerationCompleted, GenerationFailed, GenerationRequest, GenerationStatus, JobStatus
from worker.failure import Failure
from worker.intake.cancelled_jobs import CancelledJobs
from worker.intake.ledger import Ledger
from worker.intake.patience import Patience
from worker.job import Job, Lane, Origin
from worker.lifecycle.lifecycle import Lifecycle
from worker.outcome import Notice, Outcome
from worker.poll_waits import PollWaits
from worker.telemetry.job_log import JobLog
from worker.topics import Topics

NOW = 1_800_000_000.0
TOPIC = "generation.requests.normal"


class Store:
    """Manifests in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.up = True

    def put_picture(self, keys: Keys, _encoded: EncodedPicture, manifest: dict[str, Any]) -> dict[str, Any]:
        self.objects[keys.manifest] = dump_manifest(manifest)
        return manifest

    def fetch_manifest(self, girl_id: str, job_id: str) -> dict[str, Any] | None:
        if not self.up:
            raise StoreUnavailable("503")
        data = self.objects.get(object_keys(girl_id, job_id, "jpeg").manifest)
        return None if data is None else load_manifest(data)

    def url(self, key: str) -> str:
        return f"https://cdn/{key}"


@dataclass
class Engine:
    submitted: list[Job] = field(default_factory=list)
    queued: list[Job] = field(default_factory=list)
    cancelled: list[tuple[str, str]] = field(default_factory=list)
    expected: list[list[str]] = field(default_factory=list)
    hooks: EngineHooks = field(init=False)

    def made(self, hooks: EngineHooks) -> Engine:
        self.hooks = hooks
        return self

    def submit(self, job: Job) -> None:
        self.submitted.append(job)

    def release(self, _keep: Callable[[Origin], bool], *, started: bool) -> None:
        """What is in the engine stays there."""

    def expect(self, jobs: Sequence[Job]) -> None:
        self.expected.append([job.job_id for job in jobs])

    def report(self, queued: Sequence[Job]) -> None:
        self.queued = list(queued)

    def cancel(self, job_id: str, _code: ErrorCode, message: str) -> None:
        self.cancelled.append((job_id, message))


class Site:
    """A lifecycle between fakes; whatever it publishes is durable at once."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.clock = 0.0
        self.recorded_at = NOW
        self.store, self.engine, self.ledger, self.cancelled = Store(), Engine(), Ledger(), CancelledJobs()
        self.ledger.assign(TOPIC, 0, 0, None)
        self.queue = RetryQueue(self.monotonic)
        self.lifecycle = Lifecycle(
            self.ledger,
            self.queue,
            Finisher(cast("Any", self.store), MODEL, SETTINGS.model_copy(update={"checkpoint_jobs": False})),
            MessageWriter(Topics(), "w1"),
            JobLog(),
            cast("Any", self),
            PollWaits(cast("Any", self), Patience([TOPIC], self.monotonic, 300.0), lambda: None),
            make_engine=lambda hooks: cast("Any", self.engine.made(hooks)),
            make_publisher=lambda _: cast("Any", self),
            cancellation_of=self.cancelled.reason,
            crash_loop_limit=3,
            revoke_timeout_s=1.0,
            wait_bounds_s=(1.0, 2.0, 5.0),
        )
        self.engine.hooks.on_room((9, 9, 9))

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return self.clock

    def enqueue(self, item: Any, _now: float) -> None:
        self.items.append(item)

    def origin(self) -> Origin:
        offset = len(self.ledger.was_read((TOPIC, 0)))
        found = self.ledger.deliver(TOPIC, 0, offset)
        assert found is not None
        return found

    def run(self) -> None:
        while self.queue.run_one():
            pass

    def request(self, starts: int = 0, **changes: Any) -> Job:
        """A request is admitted, and goes as far as it can by itself."""
        job = replace(
            sample_picture(sample_request(**changes)).job,
            lane=Lane.NORMAL,
            origin=self.origin(),
            received_at=self.recorded_at,
            recorded_at=self.recorded_at,
            attempt=1,
        )
        self.lifecycle.on_admitted(job, starts)
        self.go_on(starts)
        return job

    def go_on(self, starts: int = 0) -> None:
        """Let what was admitted go as far as it can by itself."""
        self.run()
        for item in [item for item in self.items if isinstance(item, Start)]:
            self.items.remove(item)
            self.lifecycle.on_started(item.job, starts + 1)
        self._commit()

    def reject(self, code: ErrorCode, **changes: Any) -> None:
        request = sample_request(**changes)
        failure = Failure(
            request=request, lane=Lane.NORMAL, origin=self.origin(), code=code, message="no", requested_at=NOW
        )
        self.lifecycle.on_rejected(failure)
        self.run()
        self._commit()

    def draw(self, job: Job) -> None:
        picture = replace(sample_picture(job.request), job=job, lora_fingerprints={"ink": "f" * 64})
        self.lifecycle.on_pixels(picture)
        self.run()
        self._commit()

    def complete(self, **changes: Any) -> Job:
        job = self.request(**changes)
        assert self.engine.submitted[-1].origin == job.origin
        self.draw(job)
        return job

    def _commit(self) -> None:
        for item in self.items:
            if isinstance(item, Outcome) and self.ledger.owns(item.origin):
                self.ledger.finish([item.origin])
                self.lifecycle.on_committed(item.origin)

    def events(self, kind: type) -> list[Any]:
        return [message.value for message in self._messages() if isinstance(message.value, kind)]

    def ids(self, kind: type) -> list[bytes | None]:
        return [dict(message.headers)["ce_id"] for message in self._messages() if isinstance(message.value, kind)]

    def _messages(self) -> list[Any]:
        found: list[Any] = []
        for item in self.items:
            found += [item.message] if isinstance(item, Notice) else item.messages if isinstance(item, Outcome) else []
        return found

    @property
    def status(self) -> GenerationStatus:
        """What compaction leaves of the one job's states."""
        found: GenerationStatus = self.events(GenerationStatus)[-1]
        return found


@pytest.fixture
def site() -> Site:
    return Site()


def assert_tells_of_the_picture(status: GenerationStatus) -> None:
    assert (status.status, status.girl_id, status.error_code) == (JobStatus.COMPLETED, "girl-1", None)
    assert status.image_url == "https://cdn/generated/girl-1/job-1.jpg"
    assert status.thumbnail_url == "https://cdn/generated/girl-1/job-1_thumb.jpg"
    assert status.generation_time == 2.25


REFUSED: list[Callable[[Site], object]] = [
    lambda site: site.request(prompt="another"),
    lambda site: site.request(user_id=8),
    lambda site: site.request(girl_id="girl-2"),
    lambda site: site.request(girl_id="girl-2", prompt="another"),
    lambda site: site.reject(ErrorCode.INVALID_REQUEST, num_inference_steps=0),
    lambda site: site.reject(ErrorCode.CONTENT_REJECTED, prompt="bad"),
    lambda site: site.reject(ErrorCode.UNKNOWN_LORA),
    lambda site: site.reject(ErrorCode.EXPIRED),
    lambda site: site.reject(ErrorCode.INVALID_REQUEST, girl_id="girl-2"),
    lambda site: site.reject(ErrorCode.INVALID_REQUEST, girl_id="../up"),
    lambda site: site.request(starts=3, prompt="another"),
]


def test_the_engine_is_told_who_comes_next_and_its_long_tasks_run_in_the_pool(site: Site) -> None:
    site.engine.hooks.on_room((0, 0, 0))
    first, second = (site.request(job_id=name) for name in ("a", "b"))
    site.engine.hooks.on_room((0, 0, 0))
    assert site.engine.expected == [["a"], ["a", "b"]], "each once, not at every tick"
    assert not site.engine.submitted
    done: list[str] = []
    for job in (first, second):
        site.engine.hooks.apart(job, lambda job=job: done.append(job.job_id))  # type: ignore[misc]
    assert not done, "not on the engine's thread"
    site.run()
    assert done == ["a", "b"]


@pytest.mark.parametrize("refuse", REFUSED)
def test_a_refused_request_does_not_overwrite_the_status_of_the_picture_that_has_its_id(
    site: Site, refuse: Callable[[Site], object]
) -> None:
    site.complete()
    before = len(site.engine.submitted)
    refuse(site)
    assert len(site.events(GenerationFailed)) == 1
    assert len(site.events(GenerationCompleted)) == 1
    assert len(site.engine.submitted) == before
    assert_tells_of_the_picture(site.status)


@pytest.mark.parametrize("girl_id", ["girl-1", "girl-2"])
def test_a_reused_id_is_refused_as_such(site: Site, girl_id: str) -> None:
    site.complete()
    site.request(girl_id=girl_id, prompt="another")
    [event] = site.events(GenerationFailed)
    assert (event.error_code, event.girl_id) == (ErrorCode.INVALID_REQUEST, girl_id)
    assert "used before" in event.error_message


def test_a_reused_id_that_comes_while_the_first_is_drawn_waits_and_is_refused(site: Site) -> None:
    first = site.request()
    site.request(girl_id="girl-2")
    assert len(site.engine.submitted) == 1
    site.draw(first)
    site.run()
    site._commit()
    assert len(site.events(GenerationFailed)) == 1
    assert_tells_of_the_picture(site.status)


def test_an_id_without_a_picture_is_free(site: Site) -> None:
    job = site.request()
    site.engine.hooks.on_failed(Failure.of(job, ErrorCode.MODEL_ERROR, "flat"))
    site._commit()
    assert site.status.status == "failed"
    site.complete(girl_id="girl-2", prompt="another")
    assert site.status.status == "completed"


def test_an_id_whose_picture_was_deleted_is_free(site: Site) -> None:
    site.complete()
    site.store.objects.clear()
    site.complete(girl_id="girl-2")
    assert site.status.girl_id == "girl-2"


def test_two_girls_pictures_under_one_id_have_completed_events_of_their_own(site: Site) -> None:
    # Neither worker knows of the other's picture.
    other = Site()
    site.complete()
    other.complete(girl_id="girl-2")
    assert site.ids(GenerationCompleted) != other.ids(GenerationCompleted)


def test_a_repeated_request_is_answered_with_the_same_ce_id(site: Site) -> None:
    site.complete()
    site.request(starts=1)
    first, again = site.ids(GenerationCompleted)
    assert first == again
    assert len(set(site.ids(GenerationStatus))) == len(site.ids(GenerationStatus))


def test_two_refusals_are_two_events(site: Site) -> None:
    for _ in range(2):
        site.reject(ErrorCode.INVALID_REQUEST, num_inference_steps=0)
    assert len(set(site.ids(GenerationFailed))) == 2


def test_a_refusal_waits_for_the_store_and_is_not_lost(site: Site) -> None:
    site.complete()
    site.store.up = False
    site.reject(ErrorCode.EXPIRED)
    assert site.events(GenerationFailed) == []
    site.store.up = True
    site.clock += 60
    site.run()
    assert len(site.events(GenerationFailed)) == 1
    assert_tells_of_the_picture(site.status)


def test_a_refusal_of_a_partition_that_has_gone_is_the_next_owners(site: Site) -> None:
    failure = Failure(
        request=sample_request(),
        lane=Lane.NORMAL,
        origin=site.origin(),
        code=ErrorCode.EXPIRED,
        message="no",
        requested_at=NOW,
    )
    site.lifecycle.on_rejected(failure)
    site.ledger.revoke([(TOPIC, 0)])
    site.run()
    assert site.items == []


class TestCancellation:
    def test_a_running_job_is_stopped(self, site: Site) -> None:
        site.request()
        site.cancelled.add("job-1", NOW + 1, "no")
        site.lifecycle.cancel("job-1")
        assert site.engine.cancelled == [("job-1", "no")]

    def test_an_old_cancellation_that_is_read_late_leaves_what_was_sent_again_alone(self, site: Site) -> None:
        site.request()
        site.cancelled.add("job-1", NOW - 3600, "no")
        site.lifecycle.cancel("job-1")
        assert site.engine.cancelled == []

    def test_what_is_sent_again_while_the_cancelled_job_still_runs_is_made(self, site: Site) -> None:
        first = site.request()
        site.cancelled.add("job-1", NOW + 60, "no")
        site.recorded_at = NOW + 61
        site.request()
        site.lifecycle.cancel("job-1")
        assert site.engine.cancelled == [("job-1", "no")]
        site.engine.hooks.on_failed(Failure.of(first, ErrorCode.CANCELLED, "no"))
        site._commit()
        site.go_on()
        assert [job.recorded_at for job in site.engine.submitted] == [NOW, NOW + 61]
        assert len(site.engine.cancelled) == 1

    def test_a_job_is_stopped_at_its_start(self, site: Site) -> None:
        site.cancelled.add("job-1", NOW - 5, "no")
        site.request()
        assert site.engine.submitted == []
        assert site.status.status is JobStatus.CANCELLED

    def test_one_that_comes_while_the_job_is_submitted_is_not_lost(self, site: Site) -> None:
        def submit(job: Job) -> None:
            site.cancelled.add(job.job_id, NOW + 1, "no")
            site.lifecycle.cancel("another")

        site.engine.submit = submit  # type: ignore[method-assign]
        site.request()
        assert site.engine.cancelled == [("job-1", "no")]

    def test_a_cancellation_of_an_unknown_or_finished_job_does_nothing(self, site: Site) -> None:
        site.complete()
        site.cancelled.add("job-1", NOW + 1, "no")
        site.lifecycle.cancel("job-1")
        assert site.engine.cancelled == []


class TestStartQueue:
    """Jobs for which the engine has no room yet."""

    def test_their_starts_are_recorded_once_there_is_room(self, site: Site) -> None:
        site.engine.hooks.on_room((0, 0, 0))
        site.request()
        assert site.engine.submitted == []
        site.engine.hooks.on_room((1, 1, 1))
        site.go_on()
        assert [job.attempt for job in site.engine.submitted] == [1]

    def test_a_cancelled_one_ends_at_once_and_without_a_start(self, site: Site) -> None:
        site.engine.hooks.on_room((0, 0, 0))
        job = site.request()
        site.cancelled.add("job-1", NOW + 1, "no")
        site.lifecycle.cancel("job-1")
        site._commit()
        assert site.status.status is JobStatus.CANCELLED
        site.engine.hooks.on_room((1, 1, 1))
        assert not any(isinstance(item, Start) for item in site.items)
        assert not site.ledger.owns(job.origin)

    def test_one_that_expires_ends_at_once(self, site: Site) -> None:
        site.engine.hooks.on_room((0, 0, 0))
        site.request(job_id="a")
        waiting = replace(sample_picture(sample_request(job_id="b")).job, origin=site.origin(), expires_at=NOW - 1)
        site.lifecycle.on_admitted(waiting, 0)
        site.go_on()
        site.engine.hooks.on_room((0, 0, 0))
        assert [(event.job_id, event.error_code) for event in site.events(GenerationFailed)] == [("b", "expired")]

    def test_those_of_a_partition_that_closes_are_released(self, site: Site) -> None:
        site.engine.hooks.on_room((0, 0, 0))
        job = site.request()
        site.ledger.close([(TOPIC, 0)])
        site.lifecycle.partitions.release_waiting()
        assert not site.ledger.owns(job.origin)
        site.engine.hooks.on_room((1, 1, 1))
        assert not any(isinstance(item, Start) for item in site.items)

    def test_one_that_comes_from_the_look_up_after_its_partition_closed_is_released(self, site: Site) -> None:
        fetch = site.store.fetch_manifest

        def slow_fetch(girl_id: str, job_id: str) -> dict[str, Any] | None:
            site.ledger.close([(TOPIC, 0)])
            return fetch(girl_id, job_id)

        site.store.fetch_manifest = slow_fetch  # type: ignore[method-assign]
        job = site.request()
        assert not site.ledger.owns(job.origin)
        assert site.engine.submitted == []

    def test_suspects_that_wait_are_counted(self, site: Site) -> None:
        site.engine.hooks.on_room((0, 0, 0))
        site.request(starts=1, job_id="a")
        site.request(job_id="b")
        site.lifecycle.report()
        assert REGISTRY.get_sample_value("sdxl_worker_suspects_waiting") == 1
        assert [job.job_id for job in site.engine.queued] == ["a", "b"]

    def test_a_job_on_its_last_start_has_the_engine_to_itself(self, site: Site) -> None:
        last = site.request(starts=2, job_id="a")
        other = site.request(job_id="b")
        assert [job.job_id for job in site.engine.submitted] == ["a"]
        site.draw(last)
        site.go_on()
        assert site.engine.submitted[-1].origin == other.origin


def test_a_job_whose_last_process_died_after_its_picture_was_stored_is_completed(site: Site) -> None:
    site.complete()
    site.request(starts=3)
    assert site.events(GenerationFailed) == []
    assert len(site.events(GenerationCompleted)) == 2


def test_the_sample_is_one_job() -> None:
    request: GenerationRequest = sample_request()
    assert (request.job_id, request.girl_id) == ("job-1", "girl-1")
