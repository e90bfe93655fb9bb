"""What can go wrong, and what each kind leads to.

::

    WorkerError
    ├── StartupError            the worker cannot start: one message, exit code 2
    │   ├── SettingsError       contradictory or missing settings
    │   ├── ModelLoadError      the model cannot be found or loaded
    │   ├── BucketError         wrong credentials or a missing bucket
    │   └── ClusterError        Kafka topics, rights or limits that a worker cannot work with
    ├── RequestRejected         this request will never become a picture: a failed event
    ├── UndecodableError        these bytes are no event: the dead-letter topic
    ├── StoreUnavailable        S3 does not answer: wait and try again
    ├── RegistryUnavailable     the schema registry does not answer: wait and try again
    └── ProtocolError           a bug: an impossible transition; the process ends

Anything else is a bug and ends the process; the ledger makes that safe.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """`error_code` of GenerationFailed; the symbols are those of the schema."""

    UNKNOWN = "unknown"
    INVALID_REQUEST = "invalid_request"
    UNKNOWN_LORA = "unknown_lora"
    CONTENT_REJECTED = "content_rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_ERROR = "model_error"
    CRASH_LOOP = "crash_loop"
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed when it is sent again."""
        return self in _RETRYABLE


_MAX_REASON = 500
_RETRYABLE = frozenset({ErrorCode.EXPIRED, ErrorCode.OUT_OF_MEMORY, ErrorCode.INTERNAL})


class WorkerError(Exception):
    """Base of every error that this package raises on purpose."""


class StartupError(WorkerError):
    """The worker cannot start; the message says what to change."""


class SettingsError(StartupError):
    """Settings are missing or contradict each other."""


class ModelLoadError(StartupError):
    """A model cannot be found, or is not what its name says."""


class BucketError(StartupError):
    """The bucket is missing, or the credentials are refused."""


class ClusterError(StartupError):
    """Topics are missing or unequal, rights are missing, or limits are too low; a line for each problem."""


class RequestRejected(WorkerError):
    """A decodable request that will not become a picture.

    Args:
        code: becomes `error_code` of the failed event.
        message: one sentence that a person can act on; it names the field.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class UndecodableError(WorkerError):
    """Bytes that are not an event of the expected type; the message says why.

    Reasons quote schemas and bytes of strangers, so the message is made one printable line of bounded length.
    """

    def __init__(self, reason: str) -> None:
        line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in reason[:_MAX_REASON])
        super().__init__(line if len(reason) <= _MAX_REASON else f"{line[:-1]}…")


class StoreUnavailable(WorkerError):
    """S3 does not answer, or refuses what it may take later; the caller waits and tries again."""


class RegistryUnavailable(WorkerError):
    """The schema registry does not answer, or refuses what it may take later; the caller tries again."""


class ProtocolError(WorkerError):
    """An impossible transition: a bug, never an input."""
