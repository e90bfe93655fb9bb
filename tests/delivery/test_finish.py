"""From pixels to an event: what is told is what is stored, and a checkpoint never decides a job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.delivery.conftest import sample_picture, sample_request
from tests.delivery.s3_server import Answer, S3Server, settings_for
from worker.delivery.finish import Finisher
from worker.delivery.manifest import ModelInfo
from worker.delivery.stored_manifest import load_manifest
from worker.delivery.upload import PictureStore
from worker.errors import ErrorCode, RequestRejected, StoreUnavailable
from worker.job import Job
from worker.picture import Picture

PICTURE = replace(sample_picture(sample_request()), lora_fingerprints={"ink": "f" * 64})
KEY = "manifests/girl-1/job-1.json"


@pytest.fixture
def finisher(s3: S3Server, model: ModelInfo) -> Finisher:
    settings = settings_for(s3.endpoint_url, checkpoint_jobs=True, worker_id="one")
    return Finisher(PictureStore.from_settings(settings), model, settings)


def test_the_event_of_a_late_worker_tells_of_the_picture_that_is_stored(s3: S3Server, finisher: Finisher) -> None:
    first = finisher.finish(PICTURE, 1.0)
    stored = dict(s3.objects)
    brighter: Picture = replace(PICTURE, pixels=255 - PICTURE.pixels)
    second = finisher.finish(brighter, 2.0)
    assert s3.objects == stored
    assert second.sha256 == first.sha256 == load_manifest(s3.objects[KEY])["picture"]["sha256"]
    assert second.blurhash == first.blurhash


def test_an_id_that_was_used_for_another_request_meanwhile_is_refused(s3: S3Server, finisher: Finisher) -> None:
    finisher.finish(PICTURE, 1.0)
    stored = dict(s3.objects)
    other = replace(PICTURE, job=replace(PICTURE.job, request=sample_request(prompt="another")))
    with pytest.raises(RequestRejected, match="used before") as caught:
        finisher.finish(other, 2.0)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert s3.objects == stored


def test_a_picture_that_s3_will_never_take_fails_its_job(s3: S3Server, finisher: Finisher) -> None:
    s3.refuse = lambda request: Answer(400, "EntityTooLarge") if request.method == "PUT" else None
    with pytest.raises(RequestRejected, match="EntityTooLarge") as caught:
        finisher.finish(PICTURE, 1.0)
    assert caught.value.code is ErrorCode.INTERNAL


def test_a_job_is_looked_up_where_version_1_0_put_it(s3: S3Server, finisher: Finisher) -> None:
    event = finisher.finish(PICTURE, 1.0)
    s3.objects["generated/girl-1/job-1.json"] = s3.objects.pop(KEY)
    found = finisher.stored(PICTURE.job, 2.0)
    assert found is not None
    assert found.sha256 == event.sha256
    assert finisher.stored(replace(PICTURE.job, request=sample_request(job_id="new")), 2.0) is None


def with_checkpoint() -> Job:
    return replace(PICTURE.job, checkpoint=b"latents")


def test_a_checkpoint_that_s3_will_never_take_is_done_without(s3: S3Server, finisher: Finisher) -> None:
    s3.refuse = lambda request: Answer(400, "KeyTooLongError") if request.key.startswith("checkpoints") else None
    finisher.store_checkpoint(with_checkpoint())
    assert finisher.with_checkpoint(PICTURE.job) == PICTURE.job


def test_a_checkpoint_comes_back(finisher: Finisher) -> None:
    finisher.store_checkpoint(with_checkpoint())
    assert finisher.with_checkpoint(PICTURE.job) == with_checkpoint()


def test_an_outage_between_image_and_manifest_is_repeated_and_completes(s3: S3Server, finisher: Finisher) -> None:
    s3.refuse = lambda request: Answer(400, "KMS.DisabledException") if request.key == KEY else None
    with pytest.raises(StoreUnavailable, match=r"KMS\.DisabledException"):
        finisher.finish(PICTURE, 1.0)
    s3.refuse = lambda _: None
    event = finisher.finish(PICTURE, 2.0)
    assert load_manifest(s3.objects[KEY])["picture"]["sha256"] == event.sha256
