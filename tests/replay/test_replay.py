"""The `replay` verb on real Kafka and SeaweedFS, with the toy model and the real engine in this process."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from devtools.models.tiny import write_tiny
from tests.harness import Client, Result, small_request
from tests.replay.conftest import JOBS, PARTITIONS, Answered, Outcome
from worker.delivery.exactly_once import ExactlyOnce
from worker.delivery.transport import TryAgain
from worker.events.types import GenerationCompleted, GenerationFailed
from worker.replay.state import State
from worker.topics import Topics

Sdxl = Callable[..., Outcome]
Results = Callable[[str], list[Result]]


def committed(answered: Answered) -> list[tuple[str, int, int, str | None]]:
    """The live group's offsets and their metadata."""
    consumer = Consumer(
        {
            "bootstrap.servers": answered.site.broker.bootstrap_servers,
            "group.id": answered.settings["KAFKA_GROUP_ID"],
        }
    )
    places = [
        TopicPartition(topic, partition) for topic in answered.site.topics.requests for partition in range(PARTITIONS)
    ]
    found = [(p.topic, p.partition, p.offset, p.metadata) for p in consumer.committed(places, timeout=10)]
    consumer.close()
    return found


def events(results: list[Result]) -> list[Any]:
    return [result.event for result in results]


def new_id() -> str:
    return str(uuid.uuid4())


@contextmanager
def tampered(answered: Answered, number: int, change: Callable[[dict[str, Any]], None]) -> Iterator[str]:
    """One manifest changed in place; put right again at the end."""
    request = answered.good[number]
    manifest, before = answered.manifest(request), answered.manifest(request)
    change(manifest)
    answered.put_manifest(request, manifest)
    try:
        yield request.job_id
    finally:
        answered.put_manifest(request, before)


class TestDryRun:
    def test_counts_by_lane_and_standing(self, sdxl: Sdxl) -> None:
        found = sdxl("--since", "1h")
        assert found.code == 0
        assert found.summary["jobs"] == JOBS + 4
        assert found.summary["by_lane"] == {
            "urgent": {"completed": 4},
            "high": {"completed": 4, "failed: invalid_request": 1},
            "normal": {"completed": 4, "failed: expired": 3},
        }

    def test_it_writes_nothing(self, sdxl: Sdxl, tmp_path: Path) -> None:
        sdxl("--since", "1h")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("flags", "jobs"),
        [
            (["--job-id", "good-1", "--job-id", "late-1"], 2),
            (["--error-code", "expired", "--since", "1h"], 3),
            (["--failed"], 4),
            (["--since", "1h", "--until", "30m"], 0),
        ],
    )
    def test_selects(self, sdxl: Sdxl, flags: list[str], jobs: int) -> None:
        assert sdxl(*flags).summary["jobs"] == jobs

    def test_requests_whose_records_have_no_usable_time_are_selected_by_what_they_tell(
        self, sdxl: Sdxl, answered: Answered
    ) -> None:
        site = replace(answered.site, topics=Topics(f"u{uuid.uuid4().hex[:8]}."))
        site.broker.create_topics(site.topics)
        client = Client(site)
        now = datetime.now(UTC)
        marks = {"told": now, "told-old": now - timedelta(days=3), "untold": None}
        for name, requested_at in marks.items():
            request = small_request(job_id=name, requested_at=requested_at)
            value, _ = client.codec.encode(request, topic=site.topics.normal)
            # As a producer sends whose timestamps are seconds where milliseconds belong.
            client.send(site.topics.normal, name.encode(), value, timestamp_ms=int(now.timestamp()))
        client.close()
        found = sdxl("--since", "1h", KAFKA_TOPIC_PREFIX=site.topics.prefix)
        assert (found.code, found.summary["jobs"], found.summary["undated"]) == (0, 1, 1)

    def test_selects_offsets_of_a_partition(self, sdxl: Sdxl) -> None:
        sizes = [sdxl("--lane", "urgent", "--partition", str(p)).summary["jobs"] for p in (0, 1)]
        assert sum(sizes) == 4
        full = sizes.index(max(sizes))
        assert sdxl("--lane", "urgent", "--partition", str(full), "--offsets", "1-1").summary["jobs"] == 1

    def test_without_a_selection_it_asks_for_one(self, sdxl: Sdxl) -> None:
        assert sdxl().code == 2
        assert sdxl("--verify").code == 2


class TestVerify:
    def test_it_has_profiles_long_prompts_and_blurred_pictures_before_it(self, answered: Answered) -> None:
        for manifest in map(answered.manifest, answered.good):
            assert manifest["recipe"]["profile"]["name"] == "default"
            assert len(manifest["recipe"]["prompt"]) > 77, "the toy's tokens are letters"
            assert manifest["picture"]["blurred"] is True
            assert manifest["picture"]["nsfw_score"] > 0

    def test_the_same_model_gives_the_same_pixels(self, sdxl: Sdxl, answered: Answered) -> None:
        before = committed(answered)
        found = sdxl("--since", "1h", "--verify")
        assert found.code == 0, found.text
        counts = {"same": JOBS, "differs": 0, "unexplained": 0, "tampered": 0, "missing": 0, "skipped": 4}
        assert found.summary.items() >= counts.items()
        assert committed(answered) == before
        assert any(offset > 0 for _, _, offset, _ in before)

    def test_another_model_is_named_as_the_reason(self, sdxl: Sdxl, tmp_path: Path) -> None:
        write_tiny(tmp_path / "other", seed=1)
        found = sdxl("--job-id", "good-0", "--job-id", "good-7", "--verify", SDXL_MODEL_ID=str(tmp_path / "other/base"))
        assert found.code == 0, found.text
        assert (found.summary["differs"], found.summary["unexplained"]) == (2, 0)
        assert found.of("good-0")["why"][0].startswith("model: ")

    def test_a_changed_pixel_hash_is_found(self, sdxl: Sdxl, answered: Answered) -> None:
        def change(manifest: dict[str, Any]) -> None:
            manifest["picture"]["pixel_sha256"] = "0" * 64

        with tampered(answered, 3, change) as job_id:
            found = sdxl("--lane", "urgent", "--verify")
        assert (found.code, found.summary["tampered"], found.summary["same"]) == (1, 1, 3)
        assert "pixel_sha256" in found.of(job_id)["why"][0]

    def test_a_changed_recipe_is_found(self, sdxl: Sdxl, answered: Answered) -> None:
        def change(manifest: dict[str, Any]) -> None:
            manifest["recipe"]["seed"] += 1

        with tampered(answered, 4, change) as job_id:
            found = sdxl("--job-id", job_id, "--verify")
        assert (found.code, found.of(job_id)["result"]) == (1, "tampered")
        assert "recipe.seed" in found.of(job_id)["why"][0]

    def test_an_exchanged_image_is_found(self, sdxl: Sdxl, answered: Answered) -> None:
        request = answered.good[5]
        before = answered.fetch(request, "png")
        answered.put(request, "png", answered.fetch(answered.good[8], "png"))
        found = sdxl("--job-id", request.job_id, "--verify")
        answered.put(request, "png", before)
        assert (found.code, found.of(request.job_id)["result"]) == (1, "tampered")

    def test_a_difference_that_nothing_explains_is_an_error(self, sdxl: Sdxl, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.replay.verify.pixel_digest", lambda _: "1" * 64)
        found = sdxl("--job-id", "good-2", "--verify", JPEG_QUALITY="50")
        # A PNG has no quality: good-2 is one, and re-encodes to the stored bytes.
        assert found.of("good-2")["result"] == "tampered"
        found = sdxl("--job-id", "good-0", "--verify", JPEG_QUALITY="50")
        assert (found.code, found.of("good-0")["result"]) == (1, "unexplained")

    def test_an_interrupted_one_goes_on(self, sdxl: Sdxl, monkeypatch: pytest.MonkeyPatch) -> None:
        replay_id = new_id()
        with monkeypatch.context() as patch:
            interrupt_after(patch, 5)
            stopped = sdxl("--since", "1h", "--verify", "--replay-id", replay_id)
        assert stopped.code == 130
        rest = sdxl("--verify", "--replay-id", replay_id)
        assert rest.code == 0, rest.text
        assert (rest.summary["same"], rest.summary["jobs"]) == (JOBS, JOBS + 4)
        assert len(rest.lines) == JOBS + 4 - 5 + 1


class TestPublish:
    def test_failed_ones_with_a_code_are_made(
        self, sdxl: Sdxl, answered: Answered, results: Results, tmp_path: Path
    ) -> None:
        before = committed(answered)
        found = sdxl("--error-code", "expired", "--job-id", "late-0", "--publish")
        assert (found.code, found.summary["made"], found.summary["jobs"]) == (0, 1, 1), found.text
        [event] = events(results(found.summary["replay_id"]))
        assert isinstance(event, GenerationCompleted)
        assert answered.manifest(answered.expired[0])["picture"]["sha256"] == event.sha256
        assert (tmp_path / "out/replay" / f"{found.summary['replay_id']}.jsonl").exists()
        assert committed(answered) == before

    def test_an_interrupted_one_publishes_each_result_once(
        self, sdxl: Sdxl, answered: Answered, results: Results, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replay_id = new_id()
        monkeypatch.setattr("worker.replay.publish.FLUSH_RESULTS", 3)
        flags = ("--since", "1h", "--publish", "--replay-id", replay_id)
        # Published and not noted: the file has four lines when six results are in Kafka.
        with monkeypatch.context() as patch:
            interrupt_after(patch, 4)
            assert sdxl(*flags).code == 130
        assert 4 < len(results(replay_id)) < JOBS + 4
        # Made and not published.
        with monkeypatch.context() as patch:
            patch.setattr(ExactlyOnce, "_transact", interrupted)
            assert sdxl(*flags).code == 130
        last = sdxl(*flags)
        assert last.code == 0, last.text
        assert last.summary["jobs"] == JOBS + 4
        seen = events(results(replay_id))
        everyone = [request.job_id for request in (*answered.good, *answered.expired, answered.invalid)]
        assert Counter(event.job_id for event in seen) == Counter(everyone)
        failed = [event.job_id for event in seen if isinstance(event, GenerationFailed)]
        assert failed == [answered.invalid.job_id]
        assert sdxl(*flags).summary == last.summary
        assert len(results(replay_id)) == JOBS + 4

    def test_a_commit_whose_answer_is_lost_is_not_sent_again(
        self, sdxl: Sdxl, results: Results, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send, calls = ExactlyOnce.send, []

        def lose_the_answer(self: ExactlyOnce, *arguments: Any, **named: Any) -> Any:
            calls.append(arguments)
            written = send(self, *arguments, **named)
            if len(calls) == 1:
                raise TryAgain("the answer is lost")
            return written

        monkeypatch.setattr(ExactlyOnce, "send", lose_the_answer)
        found = sdxl("--lane", "urgent", "--publish")
        assert (found.code, found.summary["republished"], len(calls)) == (0, 4, 1)
        assert len(results(found.summary["replay_id"])) == 4

    def test_nothing_comes_of_a_tampered_manifest(self, sdxl: Sdxl, answered: Answered, results: Results) -> None:
        def change(manifest: dict[str, Any]) -> None:
            manifest["request"]["prompt"] = "something else"

        with tampered(answered, 6, change) as job_id:
            found = sdxl("--job-id", job_id, "--publish")
        assert (found.code, found.summary["refused"]) == (1, 1)
        assert results(found.summary["replay_id"]) == []

    def test_it_needs_no_model_to_publish_what_is_stored(self, sdxl: Sdxl, results: Results) -> None:
        found = sdxl("--job-id", "good-1", "--publish", SDXL_MODEL_ID="/nowhere")
        assert (found.code, found.summary["republished"]) == (0, 1)
        [event] = events(results(found.summary["replay_id"]))
        assert isinstance(event, GenerationCompleted)

    def test_a_replay_id_of_another_selection_is_refused(self, sdxl: Sdxl) -> None:
        replay_id = new_id()
        sdxl("--job-id", "good-1", "--publish", "--replay-id", replay_id)
        assert sdxl("--job-id", "good-2", "--publish", "--replay-id", replay_id).code == 1
        assert sdxl("--verify", "--replay-id", replay_id).code == 1


def interrupt_after(patch: pytest.MonkeyPatch, count: int) -> None:
    """Ctrl-C before the line after the first `count` is written."""
    add = State.add

    def add_or_stop(self: State, done: Any) -> None:
        if len(self.done) >= count:
            raise KeyboardInterrupt
        add(self, done)

    patch.setattr(State, "add", add_or_stop)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
