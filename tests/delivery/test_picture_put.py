"""A manifest always describes the image that is there, whoever stores the picture when, and whoever dies."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any

import pytest
from structlog.testing import capture_logs

from devtools.local.seaweedfs import SeaweedFS
from tests.delivery.s3_server import S3Server, settings_for
from worker.delivery.encode import EncodedPicture
from worker.delivery.keys import Keys, legacy_manifest_key, object_keys
from worker.delivery.manifest import dump_manifest
from worker.delivery.picture_put import Replaced, read_manifest, store_picture
from worker.delivery.s3_errors import ConditionFailed
from worker.delivery.s3_objects import Label, StoredObject
from worker.delivery.stored_manifest import load_manifest
from worker.delivery.upload import PictureStore
from worker.errors import StoreUnavailable

MakeManifest = Callable[..., tuple[EncodedPicture, dict[str, Any]]]
KEYS = object_keys("girl-1", "job-1", "jpeg")


@dataclass(frozen=True)
class Version:
    """One worker's picture: what it would store."""

    encoded: EncodedPicture
    manifest: dict[str, Any]


@pytest.fixture
def versions(make_manifest: MakeManifest) -> list[Version]:
    """The same picture as three cards draw it."""
    encoded, manifest = make_manifest()

    def version(name: str) -> Version:
        data = encoded.data + name.encode()
        sha256 = hashlib.sha256(data).hexdigest()
        other = replace(encoded, data=data, thumbnail=encoded.thumbnail + name.encode(), sha256=sha256)
        picture = manifest["picture"] | {"sha256": sha256, "byte_count": len(data)}
        return Version(other, manifest | {"picture": picture, "run": manifest["run"] | {"worker_id": name}})

    return [version(name) for name in ("a", "b", "c")]


class Died(BaseException):
    """The worker's process ends at this call."""


@dataclass
class Bucket:
    """Objects in memory; every write is a new version, as in S3."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def check(self) -> None:
        """The invariant."""
        if KEYS.manifest in self.objects:
            manifest = load_manifest(self.objects[KEYS.manifest])
            assert hashlib.sha256(self.objects[KEYS.image]).hexdigest() == manifest["picture"]["sha256"]


@dataclass
class View:
    """One worker's way to the bucket; `turn` is entered for each of its calls, which are atomic."""

    bucket: Bucket
    turn: Callable[[], AbstractContextManager[None]] = nullcontext

    def get(self, key: str) -> StoredObject | None:
        with self.turn():
            data = self.bucket.objects.get(key)
        return None if data is None else StoredObject(data, hashlib.md5(data).hexdigest())

    def etag(self, key: str) -> str | None:
        there = self.get(key)
        return None if there is None else there.etag

    def put(self, key: str, body: bytes, _label: Label, *, absent: bool = False, replacing: str | None = None) -> str:
        with self.turn():
            there = self.bucket.objects.get(key)
            if absent and there is not None:
                raise ConditionFailed(key)
            if replacing and (there is None or hashlib.md5(there).hexdigest() != replacing):
                raise ConditionFailed(key)
            self.bucket.objects[key] = body
        return hashlib.md5(body).hexdigest()


class Turns:
    """Lets several workers make their calls in a given order; those that are left over run to their end."""

    def __init__(self, order: list[int]) -> None:
        self._order = list(order)
        self._changed = threading.Condition()
        self._ended: set[int] = set()

    @contextmanager
    def of(self, worker: int) -> Iterator[None]:
        """Wait for this worker's turn, and keep it for one call."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._next() in (worker, None), 20)
            try:
                yield
            finally:
                if self._order:
                    self._order.pop(0)
                self._changed.notify_all()

    def end(self, worker: int) -> None:
        with self._changed:
            self._ended.add(worker)
            self._changed.notify_all()

    def _next(self) -> int | None:
        while self._order and self._order[0] in self._ended:
            self._order.pop(0)
        return self._order[0] if self._order else None


def test_every_interleaving_of_two_workers_keeps_the_invariant(versions: list[Version]) -> None:
    calls = 5
    for chosen in combinations(range(2 * calls), calls):
        order = [0 if position in chosen else 1 for position in range(2 * calls)]
        bucket, turns, answers = Bucket(), Turns(order), dict[int, dict[str, Any]]()

        def run(worker: int, bucket: Bucket = bucket, turns: Turns = turns, answers: Any = answers) -> None:
            view = View(bucket, lambda: turns.of(worker))
            answers[worker] = store_picture(view, KEYS, versions[worker].encoded, versions[worker].manifest)
            turns.end(worker)

        threads = [threading.Thread(target=run, args=(worker,)) for worker in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        bucket.check()
        stored = load_manifest(bucket.objects[KEYS.manifest])
        assert answers == {0: stored, 1: stored}, order
        winner = next(version for version in versions if version.manifest == stored)
        assert bucket.objects[KEYS.thumbnail] == winner.encoded.thumbnail, order


def at_call(number: int, event: Callable[[], object]) -> Callable[[], AbstractContextManager[None]]:
    """Lets something happen before the call of this number."""
    calls = iter(range(100))

    def turn() -> AbstractContextManager[None]:
        if next(calls) == number:
            event()
        return nullcontext()

    return turn


def die() -> None:
    raise Died


def store_and_die(bucket: Bucket, version: Version, call: int) -> None:
    with suppress(Died):
        store_picture(View(bucket, at_call(call, die)), KEYS, version.encoded, version.manifest)


def test_a_worker_that_dies_anywhere_leaves_what_the_next_completes(versions: list[Version]) -> None:
    for first in range(6):
        for second in range(9):
            bucket = Bucket()
            store_and_die(bucket, versions[0], first)
            bucket.check()
            store_and_die(bucket, versions[1], second)
            bucket.check()
            stored = store_picture(View(bucket), KEYS, versions[2].encoded, versions[2].manifest)
            bucket.check()
            assert stored == load_manifest(bucket.objects[KEYS.manifest])


def test_a_late_worker_is_right_wherever_it_was_stopped_and_whenever_the_other_dies(versions: list[Version]) -> None:
    late, other = versions[:2]
    for stopped in range(6):
        for death in range(12):
            bucket = Bucket()
            turn = at_call(stopped, partial(store_and_die, bucket, other, death))
            stored = store_picture(View(bucket, turn), KEYS, late.encoded, late.manifest)
            bucket.check()
            assert stored == load_manifest(bucket.objects[KEYS.manifest]), (stopped, death)


def test_a_late_worker_that_s3_interrupts_anywhere_puts_back_what_it_replaced(versions: list[Version]) -> None:
    late, other = versions[:2]

    def fail() -> None:
        raise StoreUnavailable("away")

    for stopped in range(8):
        for failing in range(stopped, 20):
            bucket, replaced = Bucket({KEYS.image: other.encoded.data}), Replaced()
            complete = at_call(stopped, partial(store_picture, View(bucket), KEYS, other.encoded, other.manifest))
            interrupt = at_call(failing, fail)

            def turn(complete: Any = complete, interrupt: Any = interrupt) -> AbstractContextManager[None]:
                complete()
                return interrupt()  # type: ignore[no-any-return]

            with suppress(StoreUnavailable):
                store_picture(View(bucket, turn), KEYS, late.encoded, late.manifest, replaced)
            stored = store_picture(View(bucket), KEYS, late.encoded, late.manifest, replaced)
            bucket.check()
            assert stored == load_manifest(bucket.objects[KEYS.manifest]), (stopped, failing)


def test_a_complete_picture_is_not_touched(versions: list[Version]) -> None:
    bucket = Bucket()
    first = store_picture(View(bucket), KEYS, versions[0].encoded, versions[0].manifest)
    before = dict(bucket.objects)
    assert store_picture(View(bucket), KEYS, versions[1].encoded, versions[1].manifest) == first
    assert bucket.objects == before


def test_a_late_worker_with_another_format_changes_nothing_that_is_seen(versions: list[Version]) -> None:
    bucket = Bucket()
    store_picture(View(bucket), KEYS, versions[0].encoded, versions[0].manifest)
    before = dict(bucket.objects)
    png = Keys(KEYS.image.replace(".jpg", ".png"), KEYS.thumbnail, KEYS.manifest)
    stored = store_picture(View(bucket), png, versions[1].encoded, versions[1].manifest)
    assert stored == versions[0].manifest
    assert {key: bucket.objects[key] for key in before} == before


def test_without_its_manifest_a_picture_is_made_anew(versions: list[Version]) -> None:
    bucket = Bucket()
    store_picture(View(bucket), KEYS, versions[0].encoded, versions[0].manifest)
    del bucket.objects[KEYS.manifest]
    assert store_picture(View(bucket), KEYS, versions[1].encoded, versions[1].manifest) == versions[1].manifest
    assert bucket.objects[KEYS.image] == versions[1].encoded.data
    assert bucket.objects[KEYS.thumbnail] == versions[1].encoded.thumbnail


def test_a_manifest_that_cannot_be_read_is_replaced(versions: list[Version]) -> None:
    bucket = Bucket({KEYS.manifest: b'{"manifest_version": 1,'})
    assert store_picture(View(bucket), KEYS, versions[0].encoded, versions[0].manifest) == versions[0].manifest
    bucket.check()


def test_a_picture_of_an_earlier_version_is_complete(versions: list[Version]) -> None:
    legacy = legacy_manifest_key("girl-1", "job-1")
    bucket = Bucket({KEYS.image: versions[0].encoded.data, legacy: dump_manifest(versions[0].manifest)})
    before = dict(bucket.objects)
    assert read_manifest(View(bucket), "girl-1", "job-1", KEYS.manifest) == versions[0].manifest
    assert store_picture(View(bucket), KEYS, versions[1].encoded, versions[1].manifest) == versions[0].manifest
    assert bucket.objects == before


def test_objects_that_change_all_the_time_are_left_for_later(versions: list[Version]) -> None:
    class Restless(View):
        def put(
            self, key: str, body: bytes, label: Label, *, absent: bool = False, replacing: str | None = None
        ) -> str:
            if replacing is not None:
                raise ConditionFailed(key)
            return super().put(key, body, label, absent=absent)

    bucket = Bucket({KEYS.image: b"another"})
    with pytest.raises(StoreUnavailable, match="another worker"):
        store_picture(Restless(bucket), KEYS, versions[0].encoded, versions[0].manifest)


# over HTTP


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_an_answer_that_was_lost_is_no_conflict(s3: S3Server, versions: list[Version], lost: int) -> None:
    store = PictureStore.from_settings(settings_for(s3.endpoint_url))
    for _ in range(3 * lost):
        s3.lose = lost
        try:
            stored = store.put_picture(KEYS, versions[0].encoded, versions[0].manifest)
        except StoreUnavailable:
            continue
        break
    assert stored == versions[0].manifest
    assert s3.objects[KEYS.image] == versions[0].encoded.data
    assert load_manifest(s3.objects[KEYS.manifest]) == stored


@pytest.mark.parametrize("conditions", ["kept", "ignored", "refused"])
def test_a_store_without_conditional_puts_is_looked_at_before_and_that_is_said_once(
    s3: S3Server, versions: list[Version], conditions: str
) -> None:
    s3.conditions = conditions
    store = PictureStore.from_settings(settings_for(s3.endpoint_url))
    with capture_logs() as lines:
        store.check()
        assert store.put_picture(KEYS, versions[0].encoded, versions[0].manifest) == versions[0].manifest
        before = dict(s3.objects)
        assert store.put_picture(KEYS, versions[1].encoded, versions[1].manifest) == versions[0].manifest
    assert s3.objects == before
    said = [line["event"] for line in lines if line["event"] == "conditional_puts_unsupported"]
    assert len(said) == (conditions != "kept")


def test_seaweedfs_keeps_conditions(tmp_path: Any, versions: list[Version]) -> None:
    with SeaweedFS(tmp_path, "pictures") as server:
        store = PictureStore.from_settings(
            settings_for(
                server.endpoint_url, aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key
            )
        )
        store.check()
        # An image that a worker of another card left, to be replaced; then a late worker that changes nothing.
        server.client().put_object(Bucket="pictures", Key=KEYS.image, Body=b"left behind")
        assert store.put_picture(KEYS, versions[0].encoded, versions[0].manifest) == versions[0].manifest
        assert store.put_picture(KEYS, versions[1].encoded, versions[1].manifest) == versions[0].manifest
        assert store.fetch(KEYS.image) == versions[0].encoded.data
        assert store.fetch(KEYS.thumbnail) == versions[0].encoded.thumbnail
