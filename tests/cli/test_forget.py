"""`forget`, `get` and `submit --save` on the embedded broker and the real store."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from devtools.local.seaweedfs import SeaweedFS
from tests.cli.conftest import CODEC, Kafka, sdxl
from tests.delivery.conftest import CREATED_AT, sample_picture, sample_request
from worker.call_sizes import CallSizes
from worker.cli.forget.log import Traces
from worker.cli.forget.objects import find_jobs
from worker.cli.forget.record import forgotten_digests, job_digest
from worker.cli.forget.subject import Kind, Subject, belongs
from worker.cli.pictures import Saver
from worker.cli.replay.run import _leave_out_forgotten
from worker.cli.submission import Submission
from worker.delivery import s3_listing
from worker.delivery.completed import owners_event
from worker.delivery.encode import EncodedPicture, encode_picture
from worker.delivery.keys import checkpoint_key, object_keys
from worker.delivery.manifest import ModelInfo, build_manifest
from worker.delivery.upload import PictureStore
from worker.errors import ErrorCode, StoreUnavailable
from worker.events.types import (
    GenerationCompleted,
    GenerationFailed,
    GenerationRequest,
    GenerationStatus,
    JobStatus,
    Priority,
    timestamp,
)
from worker.job import Lane, Origin
from worker.replay.plan import Plan
from worker.replay.selection import History, Requested, Selection, by_job
from worker.settings import load_settings

pytestmark = pytest.mark.filterwarnings("ignore:Image.Image.getdata:DeprecationWarning")


BUCKET = "forget"


class World:
    """A bucket and a broker, and what a worker would have put there."""

    def __init__(self, kafka: Kafka, s3: SeaweedFS, bucket: str) -> None:
        self.kafka = kafka
        self.client = s3.client()
        self.bucket = bucket
        self.store = PictureStore.from_settings(load_settings())

    def make(self, job_id: str, girl_id: str = "luna", user_id: int = 7) -> GenerationCompleted:
        """A picture with its checkpoint, its request, its completed event and its status."""
        encoded, manifest = described(job_id=job_id, girl_id=girl_id, user_id=user_id)
        self.store.put_picture(object_keys(girl_id, job_id, "jpeg"), encoded, manifest)
        self.store.put_checkpoint(checkpoint_key(girl_id, job_id, "0123abcd"), b"latents")
        event = owners_event(manifest, url=self.store.url, completed_at=timestamp(2_000_000_000))
        self.request(job_id, girl_id, user_id)
        self.kafka.publish(event, status_of(event, JobStatus.COMPLETED))
        return event

    def request(self, job_id: str, girl_id: str = "luna", user_id: int = 7) -> None:
        """Only the request."""
        request = GenerationRequest(job_id=job_id, girl_id=girl_id, user_id=user_id, prompt="a lighthouse")
        producer = Producer({"bootstrap.servers": self.kafka.broker.bootstrap_servers})
        producer.produce(self.kafka.topics.normal, CODEC.encode(request, topic="t")[0], job_id)
        assert producer.flush(10) == 0

    def objects(self) -> set[str]:
        """All objects but the records."""
        listed = s3_listing.list_keys(self.store.objects, "")
        return {key for key in listed if not key.startswith("forgotten/")}

    def records(self) -> list[dict[str, Any]]:
        """The records of having forgotten, the oldest first."""
        keys = sorted(s3_listing.list_keys(self.store.objects, "forgotten/"))
        return [json.loads(self.store.fetch(key) or b"") for key in keys]

    def statuses(self) -> set[str]:
        """The job ids that have a status."""
        latest: dict[Any, Any] = {(r.partition, r.key): r.value for r in self.kafka.records(self.kafka.topics.status)}
        return {key.decode() for (_, key), value in latest.items() if value is not None}


def described(**ids: Any) -> tuple[EncodedPicture, dict[str, Any]]:
    """A picture's bytes and its manifest."""
    picture = sample_picture(sample_request(**ids))
    encoded = encode_picture(
        picture.pixels, output_format="jpeg", jpeg_quality=90, thumbnail_px=64, job_id=ids["job_id"]
    )
    model = ModelInfo(
        model_id="base", model_fingerprint="b" * 64, refiner_id=None, refiner_fingerprint=None, versions={},
        device="cpu", dtype="float32", deterministic=True, calls=CallSizes("cpu", "float32"),
    )  # fmt: skip
    manifest = build_manifest(
        picture, encoded, model, lora_fingerprints={"ink": "f" * 64}, worker_id="w", created_at=CREATED_AT,
        gpu_hourly_usd=None,
    )  # fmt: skip
    return encoded, manifest


def status_of(event: Any, status: JobStatus) -> GenerationStatus:
    return GenerationStatus(
        job_id=event.job_id, girl_id=event.girl_id, user_id=event.user_id, status=status, updated_at=timestamp(1)
    )


@pytest.fixture
def world(kafka: Kafka, s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> World:
    # One for all tests, since each new bucket takes room of its own in the store.
    with suppress(s3.client().exceptions.BucketAlreadyExists, s3.client().exceptions.BucketAlreadyOwnedByYou):
        s3.client().create_bucket(Bucket=BUCKET)
    for name, value in (s3.environment | {"AWS_S3_BUCKET": BUCKET}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CLOUDFRONT_URL", raising=False)
    found = World(kafka, s3, BUCKET)
    s3_listing.delete_keys(found.store.objects, s3_listing.list_keys(found.store.objects, ""))
    return found


def forget(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = sdxl("forget", *arguments, "--yes", "--json")
    assert result.exit_code == code, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_a_job_and_nothing_else(world: World) -> None:
    for job_id in ("a", "a.b", "ab"):
        world.make(job_id)
    legacy = "generated/luna/a.json"
    world.client.put_object(Bucket=world.bucket, Key=legacy, Body=b"{}")
    before = world.objects()
    told = forget("--job", "a", "--dry-run")
    assert told["counts"] == {"checkpoints": 1, "generated": 3, "manifests": 1, "status": 1}
    assert (world.objects(), world.statuses(), world.records()) == (before, {"a", "a.b", "ab"}, [])
    told = forget("--job", "a", "--reference", "CASE-7")
    assert told["counts"] == {"checkpoints": 1, "generated": 3, "manifests": 1, "status": 1}
    assert before - world.objects() == {
        "generated/luna/a.jpg", "generated/luna/a_thumb.jpg", legacy, "manifests/luna/a.json",
        "checkpoints/luna/a.0123abcd.safetensors",
    }  # fmt: skip
    assert world.statuses() == {"a.b", "ab"}
    [record] = world.records()
    assert record["reference"] == "CASE-7"
    assert record["complete"] is True
    assert record["job_digests"] == [job_digest("a")]
    assert "luna" not in json.dumps(record)


def test_what_stays_is_said(world: World) -> None:
    world.make("a")
    stays = "\n".join(forget("--job", "a")["out_of_reach"])
    for text in (
        "generation.requests.normal: 1 record(s)", "generation.completed: 1 record(s)", "generation.dead-letter",
        "CDN; invalidate there: /generated/luna/a*", "compacted", "logs, traces",
    ):  # fmt: skip
        assert text in stays
    assert "versions" not in stays


def test_a_girl(world: World) -> None:
    world.make("a", "luna")
    world.make("b", "luna", user_id=8)
    world.make("c", "luna2")
    assert forget("--girl", "luna")["counts"] == {"checkpoints": 2, "generated": 4, "manifests": 2, "status": 2}
    assert {key.split("/")[1] for key in world.objects()} == {"luna2"}
    assert world.statuses() == {"c"}
    assert set(world.records()[0]["job_digests"]) == {job_digest("a"), job_digest("b")}


def test_a_user_by_the_manifests_and_by_the_topics(world: World) -> None:
    world.make("a", "luna", 7)
    world.make("b", "nova", 7)
    world.make("c", "luna", 77)
    # A failed job has a status and no picture.
    failed = GenerationFailed(
        job_id="d", girl_id="luna", user_id=7, error_code=ErrorCode.INTERNAL, failed_at=timestamp(1), error_message="x",
        priority=Priority.NORMAL, retryable=False, worker_id="w", attempt=1,
    )  # fmt: skip
    world.kafka.publish(failed, status_of(failed, JobStatus.FAILED))
    world.client.put_object(Bucket=world.bucket, Key="generated/old/e.json", Body=b'{"user_id": 7}')
    world.client.put_object(Bucket=world.bucket, Key="generated/old/e.png", Body=b"png")
    told = forget("--user", "7")
    assert told["counts"]["status"] == 3
    assert {key.rpartition("/")[2].partition(".")[0].removesuffix("_thumb") for key in world.objects()} == {"c"}
    assert world.statuses() == {"c"}


def test_a_manifest_that_cannot_be_read_is_not_passed_over(world: World) -> None:
    world.make("a")
    for key, body in (("manifests/luna/x.json", b"{"), ("manifests/luna/y.json", b'{"user_id": "7"}')):
        world.client.put_object(Bucket=world.bucket, Key=key, Body=body)
    told = forget("--user", "7", code=1)
    assert "2 manifest(s) that cannot be read" in "\n".join(told["out_of_reach"])
    assert world.objects() == {"manifests/luna/x.json", "manifests/luna/y.json"}
    assert world.records()[0]["complete"] is False


def test_it_can_be_run_again(world: World) -> None:
    world.make("a")
    forget("--job", "a")
    assert set(forget("--job", "a")["counts"].values()) == {0}
    assert len(world.records()) == 2


def test_after_a_failure_between_pictures_and_manifests_the_job_is_still_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.make("a")
    real, calls = s3_listing._delete, []

    def once(objects: Any, keys: Any) -> None:
        calls.append(list(keys))
        if len(calls) > 1:
            raise StoreUnavailable("S3 does not answer")
        real(objects, keys)

    monkeypatch.setattr(s3_listing, "_delete", once)
    result = sdxl("forget", "--user", "7", "--yes")
    assert result.exit_code == 1
    assert "S3 does not answer" in result.stderr
    assert world.objects() == {"manifests/luna/a.json"}
    monkeypatch.setattr(s3_listing, "_delete", real)
    forget("--user", "7")
    assert world.objects() == set()
    assert world.statuses() == set()


def test_a_job_under_way_is_cancelled_first_and_awaited(world: World) -> None:
    world.request("a")
    told = forget("--user", "7", "--dry-run")
    assert told["under_way"] == ["a"]
    ended = threading.Thread(target=_end_when_cancelled, args=(world, "a"))
    ended.start()
    told = forget("--user", "7", "--timeout", "60")
    ended.join()
    assert told["under_way"] == []
    # The picture that was finished in spite of the cancellation is gone, and so is the status written then.
    assert (world.objects(), world.statuses()) == (set(), set())


def _end_when_cancelled(world: World, job_id: str) -> None:
    while not world.kafka.records(world.kafka.topics.cancellations):
        pass
    world.make(job_id)


def test_a_job_that_does_not_end_is_told(world: World) -> None:
    world.request("a")
    result = sdxl("forget", "--job", "a", "--yes", "--timeout", "0.3")
    assert result.exit_code == 1
    assert "1 job(s) had not ended after 0.3 s, such as a: run it again" in result.stderr
    assert [getattr(event, "job_id", None) for event in world.kafka.events(world.kafka.topics.cancellations)] == ["a"]
    assert world.records()[0]["complete"] is False


def test_clocks_that_differ_leave_no_job_under_way() -> None:
    traces = Traces(requested_ms={"a": 20_000, "b": 20_001, "c": 1}, ended_ms={"a": 10_000, "b": 10_000})
    assert traces.under_way == {"b", "c"}


def test_nothing_is_removed_without_a_yes(world: World) -> None:
    world.make("a")
    before = world.objects()
    result = sdxl("forget", "--job", "a")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert world.objects() == before


@pytest.mark.parametrize(
    "arguments",
    [(), ("--job", "a", "--user", "7"), ("--girl", "g", "--user", "7"), ("--job", "../x"), ("--girl", ".x"),
     ("--job", "a_thumb"), ("--job", "a", "--reference", "x\ny")],
)  # fmt: skip
def test_what_is_no_subject(arguments: tuple[str, ...]) -> None:
    assert sdxl("forget", *arguments, "--yes").exit_code == 2


def test_pages_and_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More objects than one page or one call holds."""
    for number in range(7):
        world.client.put_object(Bucket=world.bucket, Key=f"generated/luna/{number}.jpg", Body=b"x")
    real = world.store.objects.client.list_objects_v2
    monkeypatch.setattr(world.store.objects.client, "list_objects_v2", lambda **asked: real(**asked, MaxKeys=2))
    monkeypatch.setattr(s3_listing, "_BATCH", 3)
    assert len(list(s3_listing.list_keys(world.store.objects, "generated/"))) == 7
    assert list(s3_listing.list_folders(world.store.objects, "generated/")).count("luna") == 1
    assert s3_listing.delete_keys(world.store.objects, s3_listing.list_keys(world.store.objects, "")) == 7
    assert world.objects() == set()


def test_which_objects_are_a_jobs() -> None:
    for name in ("generated/g/a.b.jpg", "generated/g/a.b_thumb.jpg", "checkpoints/g/a.b.00ff.safetensors",
                 "manifests/g/a.b.json", "generated/g/a.b.json", "generated/g/a.b.webp"):  # fmt: skip
        assert belongs(name, "a.b")
        assert not belongs(name, "a")
    for name in ("other/g/a.jpg", "generated/g/a", "generated/g/a.gif", "manifests/g/a.jpg", "generated/g/ba.jpg"):
        assert not belongs(name, "a")


def test_a_deleted_status_counts_as_none(world: World) -> None:
    event = world.make("a")
    forget("--job", "a")
    assert sdxl("status", "a").exit_code == 1
    # Requested again, it has one again.
    world.kafka.publish(status_of(event, JobStatus.QUEUED))
    assert sdxl("status", "a").exit_code == 0


def test_forgotten_jobs_are_known_by_their_digests(world: World) -> None:
    world.make("a")
    forget("--job", "a")
    world.client.put_object(Bucket=world.bucket, Key="forgotten/damaged.json", Body=b"[")
    assert forgotten_digests(world.store.objects) == {job_digest("a")}


def test_a_replay_leaves_forgotten_jobs_out(world: World) -> None:
    world.make("a")
    forget("--job", "a")
    requested = [
        Requested(
            GenerationRequest(job_id=job_id, girl_id="luna", user_id=7, prompt="a lighthouse"),
            Lane.NORMAL,
            Origin(world.kafka.topics.normal, 0, 0, 1),
            1.0,
        )
        for job_id in ("a", "b")
    ]
    plan = Plan(by_job(requested), History(Selection()))
    _leave_out_forgotten(plan, world.store)
    assert ([records[0].job_id for records in plan.jobs], plan.forgotten) == (["b"], 1)


def test_the_job_of_an_unknown_girl_is_found(world: World) -> None:
    world.make("a", "luna")
    world.make("a", "nova")
    found = find_jobs(world.store.objects, Subject(kind=Kind.JOB, job_id="a"))
    assert found.jobs == {("luna", "a"), ("nova", "a")}
    assert [manifest["girl_id"] for manifest in world.store.find_manifests("a")] == ["luna", "nova"]


def test_get_writes_both_files(world: World, tmp_path: Path) -> None:
    event = world.make("a")
    result = sdxl("get", "a", "--save", str(tmp_path / "new" / "folder"), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert Path(told["image"]).read_bytes() == world.store.fetch("generated/luna/a.jpg")
    assert Path(told["thumbnail"]).read_bytes() == world.store.fetch("generated/luna/a_thumb.jpg")
    assert told["sha256"] == event.sha256
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["a.jpg", "a_thumb.jpg"]


def test_get_without_a_status(world: World, tmp_path: Path) -> None:
    world.make("a")
    for partition, key in {(r.partition, r.key) for r in world.kafka.records(world.kafka.topics.status)}:
        producer = Producer({"bootstrap.servers": world.kafka.broker.bootstrap_servers})
        producer.produce(world.kafka.topics.status, None, key, partition)
        assert producer.flush(10) == 0
    for arguments in ((), ("--girl-id", "luna")):
        assert sdxl("get", "a", "--save", str(tmp_path), *arguments).exit_code == 0
    result = sdxl("get", "a", "--save", str(tmp_path), "--girl-id", "nova")
    assert result.exit_code == 1
    assert "no picture of a" in result.stderr
    assert sdxl("get", "../a", "--girl-id", "luna").exit_code == 2


def test_a_picture_that_was_exchanged_is_not_saved(world: World, tmp_path: Path) -> None:
    world.make("a")
    world.client.put_object(Bucket=world.bucket, Key="generated/luna/a.jpg", Body=b"another")
    result = sdxl("get", "a", "--save", str(tmp_path))
    assert result.exit_code == 1
    assert "not the one that was announced" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_submit_saves_what_it_waited_for(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Submission.send

    def answered(self: Submission, request: GenerationRequest) -> None:
        real(self, request)
        world.make(request.job_id, request.girl_id, request.user_id)

    monkeypatch.setattr(Submission, "send", answered)
    request = ("--job-id", "a", "--girl-id", "luna", "--user-id", "7", "--prompt", "a lighthouse", "--timeout", "60")
    result = sdxl("submit", *request, "--save", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "a.jpg").read_bytes() == world.store.fetch("generated/luna/a.jpg")
    assert str(tmp_path / "out" / "a_thumb.jpg") in result.stdout


def test_without_a_bucket_pictures_come_from_their_addresses(world: World, tmp_path: Path) -> None:
    event = world.make("a")
    private = Saver(tmp_path, None)
    with pytest.raises(Exception, match="answers 403: set AWS_S3_BUCKET"):
        private.save(event)
    for name, key in (("image_url", "generated/luna/a.jpg"), ("thumbnail_url", "generated/luna/a_thumb.jpg")):
        event = replace(event, **{name: world.store.objects.presigned_url(key, 600)})  # type: ignore[arg-type]
    assert private.save(event).image.read_bytes() == world.store.fetch("generated/luna/a.jpg")
    with pytest.raises(Exception, match="no http URL"):
        private.save(replace(event, image_url="file:///etc/passwd"))


def test_a_hostile_event_names_no_file_elsewhere(world: World, tmp_path: Path) -> None:
    event = world.make("a")
    with pytest.raises(Exception, match="job_id is not"):
        Saver(tmp_path, world.store).save(replace(event, job_id="../../x"))
