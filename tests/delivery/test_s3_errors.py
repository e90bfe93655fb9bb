"""What S3's answers mean: nearly all are waited out, and few are a job's fault."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import DecodeError

from tests.delivery.s3_server import Answer, Request, S3Server, settings_for
from worker.delivery import s3_client
from worker.delivery.s3_errors import OBJECT_FAULTS, translated
from worker.delivery.upload import PictureStore
from worker.errors import ErrorCode, RequestRejected, StoreUnavailable

# Status and code as the providers send them.
NOBODYS_FAULT = [
    (400, "KMS.DisabledException"),
    (400, "KMS.NotFoundException"),
    (400, "KMS.KMSInvalidStateException"),
    (400, "ExpiredToken"),
    (400, "InvalidToken"),
    (400, "IDPCommunicationError"),
    (400, "QuotaExceeded"),
    (400, "AuthorizationHeaderMalformed"),
    (400, "ThrottlingException"),
    (400, "RequestTimeout"),
    (400, "InvalidArgument"),
    (400, "InvalidRequest"),
    (400, ""),
    (401, ""),
    (403, "AccessDenied"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
    (403, "RequestTimeTooSkewed"),
    (403, "QuotaExceeded"),
    (403, "AllAccessDisabled"),
    (404, ""),
    (404, "NoSuchBucket"),
    (405, "MethodNotAllowed"),
    (409, "OperationAborted"),
    (409, "ConditionalRequestConflict"),
    (411, "MissingContentLength"),
    (429, "TooManyRequests"),
    (500, "InternalError"),
    (501, ""),
    (502, ""),
    (503, "SlowDown"),
    (507, "XMinioStorageFull"),
    (599, "SomethingNew"),
]


@pytest.fixture(autouse=True)
def _no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 1)


@pytest.fixture
def store(s3: S3Server) -> PictureStore:
    return PictureStore.from_settings(settings_for(s3.endpoint_url))


@pytest.mark.parametrize(("status", "code"), NOBODYS_FAULT)
def test_an_answer_that_is_nobodys_fault_is_waited_out(
    s3: S3Server, store: PictureStore, status: int, code: str
) -> None:
    s3.refuse = lambda _: Answer(status, code)
    with pytest.raises(StoreUnavailable, match=code or str(status)):
        store.put_checkpoint("checkpoints/g/j", b"data")
    with pytest.raises(StoreUnavailable, match=code or str(status)):
        store.fetch_manifest("g", "j")
    s3.refuse = lambda _: None
    store.put_checkpoint("checkpoints/g/j", b"data")
    assert store.fetch_manifest("g", "j") is None


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_is_waited_out(s3: S3Server, store: PictureStore, status: int) -> None:
    s3.refuse = lambda _: Answer(status, "PermanentRedirect")
    with pytest.raises(StoreUnavailable):
        store.fetch_manifest("g", "j")
    with pytest.raises(StoreUnavailable):
        store.put_checkpoint("checkpoints/g/j", b"data")


@pytest.mark.parametrize("code", OBJECT_FAULTS)
def test_only_a_fault_of_the_object_fails_its_job(s3: S3Server, store: PictureStore, code: str) -> None:
    def refuse(request: Request) -> Answer | None:
        if request.key != "generated/g/bad":
            return None
        return Answer(int(code)) if code.isdigit() else Answer(400, code)

    s3.refuse = refuse
    with pytest.raises(RequestRejected, match=code) as caught:
        store.put_checkpoint("generated/g/bad", b"data")
    assert caught.value.code is ErrorCode.INTERNAL
    store.put_checkpoint("generated/g/good", b"data")


def test_an_argument_is_the_objects_fault_only_where_it_is_the_key(s3: S3Server, store: PictureStore) -> None:
    s3.refuse = lambda _: Answer(400, "InvalidArgument", "<ArgumentName>key</ArgumentName>")
    with pytest.raises(RequestRejected, match="key"):
        store.put_checkpoint("generated/g/bad", b"data")
    s3.refuse = lambda _: Answer(400, "InvalidArgument", "<ArgumentName>x-amz-acl</ArgumentName>")
    with pytest.raises(StoreUnavailable):
        store.put_checkpoint("generated/g/bad", b"data")


def test_the_token_service_is_not_taken_for_the_store() -> None:
    answer: Any = {"Error": {"Code": "EntityTooLarge"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    error = ClientError(answer, "AssumeRoleWithWebIdentity")
    with pytest.raises(StoreUnavailable), translated():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://s3"),
        ConnectTimeoutError(endpoint_url="http://s3"),
        ReadTimeoutError(endpoint_url="http://s3"),
        ConnectionClosedError(endpoint_url="http://s3"),
        ProxyConnectionError(proxy_url="http://proxy", error="refused"),
        SSLError(endpoint_url="http://s3", error=OSError("expired")),
        ResponseStreamingError(error="cut"),
        IncompleteReadError(actual_bytes=1, expected_bytes=2),
        NoCredentialsError(),
        CredentialRetrievalError(provider="role", error_msg="timeout"),
        TokenRetrievalError(provider="sso", error_msg="expired"),
        ResponseParserError("HTML of a proxy"),
        DecodeError("cut"),
        BotoCoreError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_answer_is_waited_out(error: Exception) -> None:
    with pytest.raises(StoreUnavailable, match=type(error).__name__), translated():
        raise error
