"""What an answer of S3, or the lack of one, means.

Every answer is waited out unless it is known to be the fault of one object. Keys that were disabled, credentials that
expired, quotas, redirects and answers of proxies are nobody's job: the operator or the provider restores them, and the
jobs wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from worker.errors import ErrorCode, RequestRejected, StoreUnavailable

# The only answers that fail a job: repeating the same object at the same key gives the same answer for ever, and
# objects of other jobs are not affected. By the error code of the answer.
OBJECT_FAULTS = {
    "EntityTooLarge": "it is larger than the store accepts",
    "413": "it is larger than a proxy in front of the store accepts",
    "KeyTooLongError": "its key is longer than the store accepts",
    "414": "its key is longer than a proxy in front of the store accepts",
    "XMinioInvalidObjectName": "the store does not accept its key",
    "XMinioParentIsObject": "a part of its key is an object already",
    "ExistingObjectIsDirectory": "its key is a folder of other objects",
}
_OBJECT_OPERATIONS = frozenset({"PutObject", "GetObject", "HeadObject"})

# New credentials may be there already when the old ones are refused with one of these.
_CREDENTIAL_CODES = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)

_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, MetadataRetrievalError)


class Refused(StoreUnavailable):
    """S3 answered, but not with what was asked for.

    Args:
        operation: the API's name of what was asked, such as `PutObject`.
        code: the error code of the answer; its HTTP status where it has none.
    """

    def __init__(self, operation: str, code: str, status: int, region: str | None = None) -> None:
        super().__init__(f"S3 refused {operation}: {code} ({status})")
        self.operation = operation
        self.code = code
        self.status = status
        self.region = region

    @property
    def is_missing_key(self) -> bool:
        """Whether the object does not exist; a bare 404 may come from anywhere and says nothing."""
        return self.code == "NoSuchKey"

    @property
    def is_forbidden(self) -> bool:
        """Whether the credentials are good and the right is missing; a HEAD tells only the status."""
        return self.status == 403 and self.code in {"AccessDenied", "403"}

    @property
    def may_be_rotated(self) -> bool:
        """Whether the credentials themselves are refused."""
        return self.code in _CREDENTIAL_CODES

    @property
    def is_failed_condition(self) -> bool:
        """Whether a conditional put found something else than it expected."""
        return self.operation == "PutObject" and (self.code in {"PreconditionFailed", "412"} or self.is_missing_key)


class ConditionFailed(Exception):
    """A conditional put changed nothing: the object is there already, or is not the expected one."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn what boto3 raises into this package's errors.

    Raises:
        RequestRejected: `internal`, for the answers in `OBJECT_FAULTS`.
        StoreUnavailable: every other answer, and no answer. Only a call that botocore does not accept propagates.
    """
    try:
        yield
    except ClientError as error:
        raise _meaning(error) from error
    except ParamValidationError:
        raise
    except RecursionError as error:
        # botocore answers a redirect that names no region by asking for the bucket, and so follows that one's redirect.
        raise StoreUnavailable("S3 redirects without saying where to") from error
    except _NO_CREDENTIALS as error:
        raise StoreUnavailable(f"there are no S3 credentials now ({type(error).__name__})") from error
    except (BotoCoreError, ResponseParserError, HTTPError) as error:
        raise StoreUnavailable(f"S3 does not answer ({type(error).__name__})") from error


def _meaning(error: ClientError) -> RequestRejected | Refused:
    answer = error.response.get("Error", {})
    about = error.response.get("ResponseMetadata", {})
    status = int(about.get("HTTPStatusCode", 0))
    code = str(answer.get("Code") or status)
    operation = error.operation_name
    if operation in _OBJECT_OPERATIONS:
        fault = OBJECT_FAULTS.get(code)
        if code == "InvalidArgument" and str(answer.get("ArgumentName", "")).lower() == "key":
            fault = "the store does not accept its key"
        if fault is not None:
            return RequestRejected(ErrorCode.INTERNAL, f"S3 refuses the picture: {fault} ({code})")
    return Refused(operation, code, status, about.get("HTTPHeaders", {}).get("x-amz-bucket-region"))
