"""What is decided without a clock or a network: signatures, bodies, verdicts, offsets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import uuid
from dataclasses import replace
from typing import Any

import pytest

from tests.webhooks.events import completed, failed
from worker.events.headers import result_headers
from worker.events.types import timestamp
from worker.settings_checks import signing_secret
from worker.webhooks.answers import Answer, Verdict, retry_after_s
from worker.webhooks.payload import payload
from worker.webhooks.progress import Progress
from worker.webhooks.signature import sign

PLACE = ("generation.completed", 3, 41)
AT = ("topic", 0)


class TestSignature:
    def test_it_is_that_of_the_specifications_example(self) -> None:
        # https://github.com/standard-webhooks/standard-webhooks, the example of its libraries' tests.
        key = signing_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        headers = sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [key])
        assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    def test_two_keys_give_two_signatures(self) -> None:
        keys = [b"a" * 32, b"b" * 32]
        headers = sign("id", 7, b"body", keys)
        wanted = [base64.b64encode(hmac.digest(key, b"id.7.body", hashlib.sha256)).decode() for key in keys]
        assert headers["webhook-signature"] == " ".join(f"v1,{signature}" for signature in wanted)

    @pytest.mark.parametrize("secret", ["whsec_", "whsec_short", "not base64 at all!", "whsec_" + "A" * 100])
    def test_a_secret_of_another_form_is_refused(self, secret: str) -> None:
        with pytest.raises(ValueError, match="openssl") as told:
            signing_secret(secret)
        assert secret.removeprefix("whsec_")[:5] not in str(told.value) or secret == "whsec_"


class TestPayload:
    def test_it_holds_the_event(self) -> None:
        event = completed("job-1")
        headers = result_headers(event, source="/w", now=timestamp(1))
        sent = payload(event, headers, PLACE)
        content = json.loads(sent.body)
        assert content["type"] == "generation.completed"
        assert content["timestamp"] == content["data"]["completed_at"] == "1970-01-01T00:00:05.000Z"
        assert content["data"]["job_id"] == "job-1"
        assert content["data"]["loras"] == [{"name": "ink", "weight": 0.5}]
        assert sent.webhook_id == dict(headers)["ce_id"].decode()

    def test_a_failed_event_has_its_code_and_sentence(self) -> None:
        content = json.loads(payload(failed("job-1"), (), PLACE).body)
        assert content["type"] == "generation.failed"
        assert content["data"]["error_code"] == "invalid_request"
        assert content["data"]["error_message"] == "steps must be 1 to 500"

    @pytest.mark.parametrize("ce_id", [None, b"a.b", b"x\r\ny: z", b"", b"\xff", b"x" * 200, "é".encode()])
    def test_an_id_that_can_be_none_is_replaced_by_one_that_stays(self, ce_id: bytes | None) -> None:
        headers = [] if ce_id is None else [("ce_id", ce_id)]
        found = {payload(failed("job-1"), headers, PLACE).webhook_id for _ in range(2)}
        assert len(found) == 1
        [given] = found
        assert given == "xy-z" or uuid.UUID(given)

    def test_numbers_that_json_lacks_are_null(self) -> None:
        event = replace(completed("job-1"), generation_time=math.nan, queue_time=-math.inf)
        data = json.loads(payload(event, (), PLACE).body)["data"]
        assert (data["generation_time"], data["queue_time"]) == (None, None)


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 202, 204, 299])
    def test_2xx_delivers(self, status: int) -> None:
        assert Answer(status, "").verdict is Verdict.DELIVERED

    @pytest.mark.parametrize(
        "status", [None, 100, 301, 302, 307, 401, 403, 404, 408, 425, 429, 500, 502, 503, 504, 599]
    )
    def test_what_may_pass_is_tried_again(self, status: int | None) -> None:
        assert Answer(status, "").verdict is Verdict.TRY_AGAIN

    @pytest.mark.parametrize("status", [400, 402, 406, 409, 410, 411, 413, 414, 415, 422, 431])
    def test_a_refusal_of_this_result_gives_it_up(self, status: int) -> None:
        assert Answer(status, "").verdict is Verdict.GIVE_UP

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [(None, 0), ("7", 7), ("1e9", 3600), ("-3", 0), ("nan", 0), ("inf", 0), ("Fri, 27 Nov 2026 22:57:15 GMT", 0)],
    )
    def test_retry_after_is_bounded(self, text: str | None, seconds: float) -> None:
        assert retry_after_s(text) == seconds


class TestProgress:
    def read(self, *offsets: int) -> Progress:
        progress = Progress()
        for offset in offsets:
            progress.begin(AT, offset)
        return progress

    def test_nothing_above_an_unfinished_record_is_committed(self) -> None:
        progress = self.read(5, 6, 9)
        for offset in (6, 9):
            progress.finish(AT, offset)
        assert progress.to_commit() == {AT: 5}
        progress.finish(AT, 5)
        assert progress.to_commit() == {AT: 10}

    def test_the_end_of_the_partition_counts_once_all_is_finished(self) -> None:
        progress = self.read(5)
        progress.reach_end(AT, 7)
        assert progress.to_commit() == {AT: 5}
        progress.finish(AT, 5)
        assert progress.to_commit() == {AT: 7}

    def test_a_commit_is_not_repeated(self) -> None:
        progress = self.read(5)
        progress.committed(progress.to_commit())
        assert progress.to_commit() == {}
        assert progress.positions([AT, ("other", 0)]) == {AT: 5}

    def test_what_is_forgotten_is_not_committed(self) -> None:
        progress = self.read(5)
        progress.forget([AT])
        progress.finish(AT, 5)
        assert progress.to_commit() == progress.positions([AT]) == {}

    def test_its_length_is_what_a_crash_would_send_again(self) -> None:
        progress = self.read(*range(10))
        for offset in (0, 1, 4, 9):
            progress.finish(AT, offset)
        assert (progress.length(AT), progress.length(("other", 0))) == (8, 0)


def test_the_events_of_the_tests_are_valid() -> None:
    found: list[Any] = [completed("a"), failed("b")]
    assert [event.job_id for event in found] == ["a", "b"]
