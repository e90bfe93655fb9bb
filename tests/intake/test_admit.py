"""Admission: every invalid request is rejected with the field named, and every valid one becomes a job."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.events.strategies import event_of
from worker.errors import ErrorCode, RequestRejected, SettingsError
from worker.events.types import GenerationRequest, Lora, OutputFormat, Priority, timestamp
from worker.intake.admit import AdmissionRules, Arrival, admit, derived_seed
from worker.job import SCHEDULERS, Job, Lane, Origin
from worker.rule_files import read_deny_list
from worker.settings import Settings

SETTINGS = Settings(_env_file=None)
RULES = AdmissionRules(SETTINGS)
NOW = 1_800_000_000.0
ORIGIN = Origin("generation.requests.high", 3, 77, 2)
ARRIVAL = Arrival(ORIGIN, Lane.HIGH, NOW - 2, {"traceparent": "00-ab-cd-01"}, attempt=2, replay_id="r1")
SECRET = "a word that only the prompt holds"
REQUEST = GenerationRequest(job_id="job-1", girl_id="girl_1", user_id=5, prompt=SECRET, negative_prompt=SECRET)


def admitted(settings: Settings = SETTINGS, **values: Any) -> Job:
    return admit(replace(REQUEST, **values), ARRIVAL, AdmissionRules(settings), NOW)


def one_lora(name: str, weight: float = 1.0) -> dict[str, Any]:
    return {"loras": (Lora(name=name, weight=weight),)}


BAD_IDS = [
    "", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a b", "abc\n", "\nabc", "a\x00b", "x" * 129, "café", "аbc",
    "abc١", "a%2Fb", "a:b",
]  # fmt: skip

BAD_VALUES: dict[str, list[Any]] = {
    "job_id": [*BAD_IDS, "a_thumb", "_thumb"],
    "girl_id": BAD_IDS,
    "prompt": ["", " \n\t", SECRET * 40_000],
    "negative_prompt": [SECRET * 40_000],
    "num_inference_steps": [0, -1, 501, 10_000, 2**31 - 1],
    "guidance_scale": [float("nan"), float("inf"), float("-inf"), -1.0, -0.001, 50.001, 51.0, 1e308],
    "width": [7, 0, -8, 56, 1001, 2056, 100_000],
    "height": [7, 0, -1024, 1001, 100_000],
    "affection_level": [-1, 101],
    "nsfw_level": [-1, 101],
    "seed": [-1, 2**63, -(2**63)],
    "scheduler": ["", "ddim", "a\nb", "\U0010fffe" * 5000, "x" * 100_000, "__class__"],
    "output_format": [OutputFormat.UNKNOWN],
}

BAD: list[tuple[str, dict[str, Any], ErrorCode]] = [
    *((name, {name: value}, ErrorCode.INVALID_REQUEST) for name, values in BAD_VALUES.items() for value in values),
    ("width x height", {"width": 2048, "height": 2048}, ErrorCode.INVALID_REQUEST),
    *(("loras", one_lora(name), ErrorCode.UNKNOWN_LORA) for name in (*BAD_IDS, "\U0010fffe" * 5000, "x" * 10**6)),
    *(
        ("loras", one_lora("style", weight), ErrorCode.INVALID_REQUEST)
        for weight in (float("nan"), float("inf"), 6.0, -5.01, 1e308)
    ),
    ("loras", {"loras": (Lora(name="a"), Lora(name="b"), Lora(name="a"))}, ErrorCode.INVALID_REQUEST),
    ("loras", {"loras": tuple(Lora(name=f"l{i}") for i in range(9))}, ErrorCode.INVALID_REQUEST),
    ("loras", {"loras": (Lora(name="x" * 128, weight=-1e300),)}, ErrorCode.INVALID_REQUEST),
    ("expires_at", {"expires_at": timestamp(NOW)}, ErrorCode.EXPIRED),
    ("expires_at", {"expires_at": datetime(1, 1, 1, tzinfo=UTC)}, ErrorCode.EXPIRED),
]  # fmt: skip


def assert_fit_for_an_event(error: RequestRejected) -> None:
    assert error.code in {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.UNKNOWN_LORA,
        ErrorCode.CONTENT_REJECTED,
        ErrorCode.EXPIRED,
    }
    assert 10 < len(error.message) < 500
    assert error.message.isprintable()
    assert SECRET not in error.message


@pytest.mark.parametrize(("field", "values", "code"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_a_bad_value_is_refused_with_its_field_named(field: str, values: dict[str, Any], code: ErrorCode) -> None:
    with pytest.raises(RequestRejected) as caught:
        admitted(**values)
    assert caught.value.code is code
    assert re.search(rf"\b{field}\b", caught.value.message)
    assert_fit_for_an_event(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"job_id": "a", "girl_id": "x" * 128},
        {"job_id": "A-Z_a.z.0-9", "girl_id": "a..b"},
        {"job_id": "a_thumbs", "girl_id": "g_thumb"},
        {"prompt": "x" * 8000, "negative_prompt": ""},
        {"negative_prompt": None},
        {"num_inference_steps": 1, "guidance_scale": 0.0},
        {"num_inference_steps": 500, "guidance_scale": 50.0},
        {"width": 64, "height": 2048 - 8},
        {"width": 1728, "height": 1024},
        {"affection_level": 0, "nsfw_level": 100},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"loras": tuple(Lora(name=f"l{i}", weight=-5.0) for i in range(8))},
        {"loras": (Lora(name="x" * 128, weight=0.0),)},
        {"priority": Priority.UNKNOWN},
        {"expires_at": timestamp(NOW + 0.001)},
        *({"scheduler": name} for name in SCHEDULERS),
    ],
)
def test_the_last_good_value_is_taken(values: dict[str, Any]) -> None:
    job = admitted(**values)
    assert job.request == replace(REQUEST, **values)


def test_the_job_carries_what_is_known_of_the_record() -> None:
    job = admitted()
    assert (job.lane, job.origin, job.headers) == (Lane.HIGH, ORIGIN, {"traceparent": "00-ab-cd-01"})
    assert (job.attempt, job.replay_id) == (2, "r1")
    assert (job.prompt, job.negative_prompt) == (SECRET, SECRET)


def test_the_lane_comes_from_the_topic_and_not_from_the_field() -> None:
    assert admitted(priority=Priority.URGENT).lane is Lane.HIGH


def test_times_are_seconds_since_the_epoch() -> None:
    job = admitted(requested_at=timestamp(NOW - 5.5), expires_at=timestamp(NOW + 60))
    assert (job.requested_at, job.received_at, job.expires_at) == (NOW - 5.5, NOW, NOW + 60)


def test_without_a_request_time_the_records_time_counts() -> None:
    job = admitted()
    assert (job.requested_at, job.expires_at) == (NOW - 2, None)


def test_a_seed_is_kept_and_a_missing_one_is_derived() -> None:
    assert admitted(seed=7).seed == 7
    assert admitted().seed == derived_seed("job-1")


def test_the_derived_seed_never_changes() -> None:
    # Published pictures depend on it. Older manifests hold 63 bits, of which the low 32 were those that counted.
    assert derived_seed("job-1") == 174151894793320618 % 2**32


@given(st.text(st.characters(codec="utf-8")))
def test_a_derived_seed_is_one_that_could_have_been_asked_for(job_id: str) -> None:
    assert 0 <= derived_seed(job_id) < 2**32


@pytest.mark.parametrize(("sent", "counts"), [(0, 0), (2**32 - 1, 2**32 - 1), (2**32 + 7, 7), (2**63 - 1, 2**32 - 1)])
def test_the_jobs_seed_is_what_counts_of_the_one_that_was_sent(sent: int, counts: int) -> None:
    job = admitted(seed=sent)
    assert (job.seed, job.request.seed) == (counts, sent)


def test_a_job_knows_when_its_record_was_written() -> None:
    assert admitted(requested_at=timestamp(NOW - 50)).recorded_at == NOW - 2
    unknown = admit(REQUEST, replace(ARRIVAL, recorded_at=None), RULES, NOW)
    assert (unknown.recorded_at, unknown.requested_at) == (None, NOW)


def test_the_default_lora_is_for_requests_that_name_none() -> None:
    settings = SETTINGS.model_copy(update={"sdxl_lora_path": Path("loras") / "house.safetensors"})
    assert admitted(settings).loras == (("house", 1.0),)
    assert admitted(settings, **one_lora("other", 0.5)).loras == (("other", 0.5),)
    assert admitted().loras == ()


def test_a_minor_is_rejected_at_every_nsfw_level_but_none() -> None:
    assert admitted(prompt="portrait, 15 years old").prompt == "portrait, 15 years old"
    for level in (1, 50, 100):
        with pytest.raises(RequestRejected) as caught:
            admitted(prompt="portrait, 15 years old", nsfw_level=level)
        assert caught.value.code is ErrorCode.CONTENT_REJECTED
        assert_fit_for_an_event(caught.value)


def test_the_negative_prompt_may_name_what_is_kept_out() -> None:
    assert admitted(negative_prompt="child, teen, 15 years old", nsfw_level=80).negative_prompt


def test_a_deny_list_is_the_operators(tmp_path: Path) -> None:
    path = tmp_path / "denied.txt"
    path.write_text("word that only the\n")
    rules = AdmissionRules(SETTINGS, denied=read_deny_list(path))
    with pytest.raises(RequestRejected) as caught:
        admit(REQUEST, ARRIVAL, rules, NOW)
    assert caught.value.code is ErrorCode.CONTENT_REJECTED
    assert_fit_for_an_event(caught.value)
    with pytest.raises(SettingsError, match=r"CONTENT_DENY_PATH: .*gone"):
        read_deny_list(tmp_path / "gone")


anything = st.one_of(st.text(max_size=200), st.sampled_from([*BAD_IDS, "job-1"]), st.just("x" * 9000))
hostile = st.builds(
    lambda request, changes: replace(request, **changes),
    event_of(GenerationRequest),
    st.fixed_dictionaries(
        {},
        optional={
            "job_id": anything,
            "girl_id": anything,
            "prompt": anything,
            "scheduler": anything | st.sampled_from(SCHEDULERS),
            "guidance_scale": st.floats() | st.floats(0, 50),
            "num_inference_steps": st.integers(0, 501),
            "affection_level": st.integers(-1, 101),
            "nsfw_level": st.integers(-1, 101),
            "width": st.integers(0, 260).map(lambda eighth: eighth * 8),
            "height": st.integers(0, 260).map(lambda eighth: eighth * 8),
            "loras": st.lists(st.builds(Lora, name=anything, weight=st.floats()), max_size=9).map(tuple),
            "expires_at": st.none() | st.datetimes(timezones=st.just(UTC)),
            "requested_at": st.none() | st.datetimes(timezones=st.just(UTC)),
        },
    ),
)


@given(hostile)
def test_any_request_becomes_a_job_or_is_refused(request: GenerationRequest) -> None:
    try:
        job = admit(request, ARRIVAL, RULES, NOW)
    except RequestRejected as error:
        assert_fit_for_an_event(error)
    else:
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", job.job_id)
        assert 0 <= job.seed < 2**63
