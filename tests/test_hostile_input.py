"""Hostile records through decoding and admission: no crash, one outcome each, nothing leaves its folder."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given

from tests.events.foreign import Foreign, foreign
from worker.delivery.keys import object_keys
from worker.errors import RequestRejected, UndecodableError
from worker.events.headers import result_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationFailed, GenerationRequest, Lora, OutputFormat, timestamp
from worker.events.writers import Writer
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.job import Job, Lane, Origin
from worker.settings import Settings

RECORDS = 400_000
PROCESSES = 2
SAFE_KEY = re.compile(r"(generated|manifests)/(?!\.)[A-Za-z0-9._-]{1,128}/(?!\.)[A-Za-z0-9._-]{1,140}", re.ASCII)
NASTY = [
    *(
        b"../../etc/passwd",
        b"..",
        b"/",
        b"\\",
        b"\x00",
        b"%2e%2e%2f",
        b"\n\r",
        b"\xff\xfe",
        b"\xe2\x80\xae",
        b"A" * 300,
    ),
    *(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x80" * 12, b"\xc3\x01", b"\x00\x00\x00\x00\x01", b"{{7*7}}"),
]


def seeds_of_all() -> list[bytes]:
    """Valid records to start from."""
    codec = SingleObjectCodec()
    requests = [
        GenerationRequest(job_id="a", girl_id="b", user_id=1, prompt="c"),
        GenerationRequest(
            job_id="job-1234567890",
            girl_id="luna",
            user_id=2**40,
            prompt="a long prompt, " * 8,
            negative_prompt="",
            seed=2**62,
            num_inference_steps=4,
            loras=(Lora(name="ink", weight=0.5), Lora(name="glow", weight=-1.0)),
            output_format=OutputFormat.PNG,
            requested_at=timestamp(1_700_000_000),
            expires_at=timestamp(2_000_000_000),
        ),
    ]
    return [codec.encode(request, topic="t")[0] for request in requests]


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to three changes: flips, cuts, repeats, splices, and strings that broke others."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if out:
                out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del out[at:]
            case 2:
                out[at:at] = rng.choice(NASTY)
            case 3:
                out[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
            case 4:
                out[at:] = rng.choice(others)[at:]
            case _:
                nasty = rng.choice(NASTY)
                out[at : at + len(nasty)] = nasty
    return bytes(out)


def outcome(decode: Callable[[], GenerationRequest], settings: Settings) -> str:
    """What becomes of a record; anything but these three is a crash."""
    try:
        request = decode()
    except UndecodableError:
        return "dead-letter"
    arrival = Arrival(Origin("t", 0, 0, 1), Lane.NORMAL, 1_800_000_000.0, {})
    try:
        job = admit(request, arrival, AdmissionRules(settings), 1_800_000_000.0)
    except RequestRejected as error:
        check_rejection(request, error)
        return "failed"
    check_job(job)
    return "job"


def check_rejection(request: GenerationRequest, error: RequestRejected) -> None:
    assert "\n" not in error.message
    assert len(error.message) < 500
    event = GenerationFailed(
        job_id=request.job_id, error_code=error.code, error_message=error.message, failed_at=timestamp(0)
    )
    for name, value in result_headers(event, source="/w", now=timestamp(0)):
        assert not re.search(rb"[\x00-\x1f\x7f]", value or b""), name


def check_job(job: Job) -> None:
    keys = object_keys(job.request.girl_id, job.job_id, job.request.output_format.value)
    for key in (keys.image, keys.thumbnail, keys.manifest):
        assert SAFE_KEY.fullmatch(key), key
    for name, _ in job.loras:
        assert re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,128}", name, re.ASCII), name


def run(seed: int, count: int) -> Counter[str]:
    rng, codec, settings = random.Random(seed), SingleObjectCodec(), Settings(_env_file=None)
    valid = seeds_of_all()
    found: Counter[str] = Counter()
    for _ in range(count):
        data = mutate(rng, rng.choice(valid), valid)
        headers = [("traceparent", data[:64])]
        found[
            outcome(partial(codec.decode, data, topic="t", headers=headers, expected=GenerationRequest), settings)
        ] += 1
    return found


@pytest.mark.slow
def test_400_000_mutated_records_each_have_one_outcome() -> None:
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        parts = pool.map(run, range(PROCESSES), [RECORDS // PROCESSES] * PROCESSES)
        totals: Counter[str] = sum(parts, Counter())
    assert totals.total() == RECORDS
    # The mutator is of use only while all three doors are tried.
    assert all(totals[kind] > RECORDS // 100 for kind in ("dead-letter", "failed", "job")), totals


def test_the_mutator_can_find_a_hole() -> None:
    rng, valid = random.Random(1), seeds_of_all()
    mutated = [mutate(rng, rng.choice(valid), valid) for _ in range(3_000)]
    decoded = []
    for data in mutated:
        try:
            decoded.append(SingleObjectCodec().decode(data, topic="t", headers=None, expected=GenerationRequest))
        except UndecodableError:
            continue
    assert any(not SAFE_KEY.fullmatch(f"generated/{r.girl_id}/{r.job_id}.jpg") for r in decoded)


RELAXED = hypothesis.settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
IN_ORDER = GenerationRequest(job_id="a", girl_id="b", user_id=1, prompt="c")


def test_what_foreign_writers_send_has_one_outcome_each() -> None:
    found: Counter[str] = Counter()
    limits = Settings(_env_file=None)

    @hypothesis.settings(
        max_examples=100, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow]
    )
    @given(foreign(GenerationRequest))
    def send(writer: Foreign) -> None:
        # A request that is in order would take too much luck, so that only a part is kept as well, and nothing.
        def kept(part: str) -> GenerationRequest:
            request = Writer(writer.text).read(writer.data, 0, GenerationRequest)
            words = replace(IN_ORDER, prompt=request.prompt, loras=request.loras)
            return {"all": request, "words": words, "nothing": IN_ORDER}[part]

        for part in ("all", "words", "nothing"):
            found[outcome(partial(kept, part), limits)] += 1

    send()
    assert all(found[kind] > 0 for kind in ("dead-letter", "failed", "job")), found
