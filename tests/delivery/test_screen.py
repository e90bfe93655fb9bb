"""The detector's score is in the manifest and the event, and a rejected picture leaves no objects in S3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.delivery.conftest import sample_picture, sample_request
from worker.delivery.encode import EncodedPicture
from worker.delivery.finish import Finisher
from worker.delivery.keys import Keys
from worker.delivery.manifest import ModelInfo, dump_manifest
from worker.delivery.stored_manifest import load_manifest
from worker.engine.safety import Screen
from worker.errors import ErrorCode, RequestRejected
from worker.job import Lane, Origin
from worker.picture import Picture
from worker.replay.plan import Item, Standing
from worker.replay.selection import Requested
from worker.replay.verify import Verdict, Verifier
from worker.settings import Settings

SETTINGS = Settings(_env_file=None)
DRAWN = replace(sample_picture(sample_request()), lora_fingerprints={"ink": "f" * 64}, nsfw_score=None)


class Store:
    """Keeps what is put."""

    def __init__(self) -> None:
        self.manifests: list[dict[str, Any]] = []

    def put_picture(self, _keys: Keys, _encoded: EncodedPicture, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self.manifests.append(load_manifest(dump_manifest(manifest)))
        return self.manifests[-1]

    @staticmethod
    def url(key: str) -> str:
        return key


def completer(model: ModelInfo, store: Store, screen: Callable[[Picture], Picture] | None) -> Finisher:
    complete = Finisher(cast("Any", store), model, SETTINGS)
    return complete if screen is None else replace(complete, screen=screen)


def scoring(score: float, *, blur: bool) -> Screen:
    return Screen(lambda _: score, {0: 0.5}, blur)


def test_the_score_is_in_the_manifest_and_in_the_event(model: ModelInfo) -> None:
    store = Store()
    event = completer(model, store, scoring(0.25, blur=False)).finish(DRAWN, 0.0)
    assert event.nsfw_score == 0.25
    assert store.manifests[0]["picture"]["nsfw_score"] == 0.25
    assert store.manifests[0]["picture"]["blurred"] is False


def test_without_a_detector_there_is_no_score(model: ModelInfo) -> None:
    store = Store()
    assert completer(model, store, None).finish(DRAWN, 0.0).nsfw_score is None
    assert store.manifests[0]["picture"]["nsfw_score"] is None


@pytest.mark.parametrize(("score", "code"), [(0.75, ErrorCode.CONTENT_REJECTED), (7.0, ErrorCode.INTERNAL)])
def test_what_is_refused_is_not_stored(model: ModelInfo, score: float, code: ErrorCode) -> None:
    store = Store()
    with pytest.raises(RequestRejected) as caught:
        completer(model, store, scoring(score, blur=False)).finish(DRAWN, 0.0)
    assert caught.value.code is code
    assert store.manifests == []


def test_a_blurred_picture_is_verified_by_blurring_anew(model: ModelInfo) -> None:
    clear, blurry = Store(), Store()
    first = completer(model, clear, None).finish(DRAWN, 0.0)
    event = completer(model, blurry, scoring(0.75, blur=True)).finish(DRAWN, 0.0)
    assert event.nsfw_score == 0.75
    assert event.sha256 != first.sha256
    manifest = blurry.manifests[0]
    assert manifest["picture"]["blurred"] is True
    with ThreadPoolExecutor(1) as pool:
        verifier = Verifier(cast("Any", None), model, cast("Any", None), SETTINGS, pool)
        item = Item(Requested(sample_request(), Lane.HIGH, Origin("t", 0, 0, 0), 0.0), Standing.COMPLETED, manifest)
        assert verifier._compare(item, DRAWN).result == Verdict.SAME
        other = replace(DRAWN, pixels=DRAWN.pixels[::-1])
        assert verifier._compare(item, other).result == Verdict.UNEXPLAINED
