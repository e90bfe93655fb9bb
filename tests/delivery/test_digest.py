"""The digests hold every field that decides the picture, and the tables say truly which ones do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from devtools.bench.equality.draw import load_toy
from tests.engine.scenario import stage
from worker.delivery.digest import (
    JOB_FIELDS,
    REQUEST_FIELDS,
    Decides,
    check_declared,
    pixels_digest,
    request_digest,
)
from worker.engine.pipeline import SdxlModel
from worker.errors import ProtocolError
from worker.events.types import GenerationRequest, Lora, OutputFormat, Priority, timestamp
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.job import AppliedProfile, Job, Lane, LoraMethod, Origin
from worker.presets import PRESETS
from worker.prompt_syntax import PromptSyntax
from worker.rule_files import read_rules
from worker.settings import Settings

NOW = 1_800_000_000.0
ARRIVAL = Arrival(Origin("generation.requests.high", 3, 77, 2), Lane.HIGH, NOW - 2, {})
MODEL = {"model_fingerprint": "ab", "versions": {"torch": "2.15.0"}, "slots": 4}

# Of defaults only, as the digest that stored manifests hold was made of it.
KNOWN = GenerationRequest(job_id="j", girl_id="g", user_id=1, prompt="p")
# Small, for the toy model.
REQUEST = replace(KNOWN, guidance_scale=3.0, num_inference_steps=2, width=64, height=64)

# Another value of each field of `REQUEST`. A new field needs one here.
CHANGES: dict[str, Any] = {
    "job_id": "j2",
    "girl_id": "luna",
    "user_id": 2,
    "prompt": "q",
    "negative_prompt": "fog",
    "affection_level": 60,
    "nsfw_level": 60,
    "num_inference_steps": 3,
    "guidance_scale": 7.25,
    "high_quality": True,
    "width": 96,
    "height": 96,
    "seed": 0,
    "scheduler": "EulerDiscreteScheduler",
    "loras": (Lora(name="ink"),),
    "output_format": OutputFormat.PNG,
    "priority": Priority.URGENT,
    "requested_at": timestamp(NOW),
    "expires_at": timestamp(NOW + 60),
}

# Another value of each field of a job, but for the request. A new field needs one here.
JOB_CHANGES: dict[str, Any] = {
    "lane": Lane.URGENT,
    "origin": Origin("t", 0, 0, 0),
    "seed": 5,
    "loras": (("ink", 0.5),),
    "prompt": "q",
    "negative_prompt": "",
    "attempt": 3,
    "requested_at": 1.0,
    "recorded_at": 5.0,
    "received_at": 1.0,
    "expires_at": NOW + 1,
    "headers": {"traceparent": "x"},
    "replay_id": "r",
    "profile": AppliedProfile("p", "f"),
    "checkpoint": b"x",
    "preset": PRESETS["lightning-4"],
    "prompt_syntax": PromptSyntax.A1111,
    "call_samples": 8,
    "lora_method": LoraMethod.HOOKS,
    "compiled": False,
}

PROFILE = """
prompt = "a lighthouse"
[[affection]]
from = 50
to = 100
prompt = "smiling"
[[nsfw]]
from = 50
to = 100
prompt = "at night"
"""

names = pytest.mark.parametrize("name", [field.name for field in fields(GenerationRequest)])
job_names = pytest.mark.parametrize("name", sorted({field.name for field in fields(Job)} - {"request"}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SdxlModel:
    return load_toy(tmp_path_factory.mktemp("digest"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder: Path = tmp_path_factory.mktemp("profiles")
    (folder / "default.toml").write_text(PROFILE)
    (folder / "luna.toml").write_text(PROFILE.replace("lighthouse", "harbour"))
    return Settings(_env_file=None, profiles_path=folder)


@pytest.fixture(scope="module")
def drawn(model: SdxlModel, settings: Settings) -> Mapping[str, npt.NDArray[np.uint8]]:
    """Pixels of `REQUEST` under the empty name, and with each of its fields changed under the field's name."""
    requests = {"": REQUEST} | {name: replace(REQUEST, **{name: value}) for name, value in CHANGES.items()}
    jobs = {name: admit(request, ARRIVAL, read_rules(settings), NOW) for name, request in requests.items()}
    return {name: next(iter(stage(model).run(job).pictures.values())).pixels for name, job in jobs.items()}


def job(request: GenerationRequest = REQUEST) -> Job:
    return admit(request, ARRIVAL, AdmissionRules(Settings(_env_file=None)), NOW)


@names
def test_a_field_decides_the_pixels_where_the_table_says_so(
    drawn: Mapping[str, npt.NDArray[np.uint8]], name: str
) -> None:
    assert (not np.array_equal(drawn[name], drawn[""])) == (REQUEST_FIELDS[name] is Decides.PIXELS)


@names
def test_both_digests_hold_the_fields_that_decide_the_picture(name: str) -> None:
    changed = replace(REQUEST, **{name: CHANGES[name]})
    counts = REQUEST_FIELDS[name] is not Decides.NOTHING
    assert (request_digest(changed) != request_digest(REQUEST)) == counts
    one, other = job(), replace(job(), request=changed)
    assert (pixels_digest(other, MODEL) != pixels_digest(one, MODEL)) == counts


@job_names
def test_the_checkpoints_digest_holds_what_admission_chose(name: str) -> None:
    same = pixels_digest(replace(job(), **{name: JOB_CHANGES[name]}), MODEL) == pixels_digest(job(), MODEL)
    assert same == (JOB_FIELDS[name] is Decides.NOTHING)


@pytest.mark.parametrize("name", MODEL)
def test_the_checkpoints_digest_holds_the_model(name: str) -> None:
    assert pixels_digest(job(), MODEL | {name: "another"}) != pixels_digest(job(), MODEL)


def test_only_the_clock_and_the_lane_leave_the_requests_digest_alone() -> None:
    outside = {name for name, decides in REQUEST_FIELDS.items() if decides is Decides.NOTHING}
    assert outside == {"priority", "requested_at", "expires_at"}


@dataclass
class Grown:
    prompt: str
    style: str = ""


def test_a_field_that_is_in_no_table_is_refused() -> None:
    check_declared(Grown, {"prompt": Decides.PIXELS, "style": Decides.PIXELS})
    with pytest.raises(ProtocolError, match=r"Grown\.style is new"):
        check_declared(Grown, {"prompt": Decides.PIXELS})


def test_a_field_that_is_gone_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no field clip_skip"):
        check_declared(Grown, {"prompt": Decides.PIXELS, "style": Decides.PIXELS, "clip_skip": Decides.PIXELS})


def test_lora_order_and_weight_count() -> None:
    a, b = Lora(name="a"), Lora(name="b", weight=0.5)
    orders: list[tuple[Lora, ...]] = [(a, b), (b, a), (a, replace(b, weight=0.6))]
    assert len({request_digest(replace(REQUEST, loras=loras)) for loras in orders}) == 3


def test_a_whole_number_is_the_same_however_it_is_written() -> None:
    assert request_digest(replace(REQUEST, guidance_scale=7)) == request_digest(replace(REQUEST, guidance_scale=7.0))


def test_the_digest_of_a_known_request_never_changes() -> None:
    # Stored manifests hold it: another value here makes every stored picture belong to a different request.
    assert request_digest(KNOWN) == "27b51b3441088fa094f212c9e9e1bdfecfa5b46eb3b7fc6d2d68a938c9393d54"


def test_the_checkpoints_digest_of_a_known_job_stays() -> None:
    # Another value here means that no worker goes on from a checkpoint that an older version has left.
    known = replace(job(KNOWN), loras=(("ink", 0.5),))
    assert pixels_digest(known, MODEL) == "22f78232de7ea1d6"
