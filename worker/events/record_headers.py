"""Reading the headers of a confluent-kafka message without falling over a name that is not UTF-8."""

from __future__ import annotations

from operator import methodcaller
from typing import Any

import structlog
from confluent_kafka import Message

from worker.events.single_object import Headers

_log = structlog.get_logger()

# Not `message.headers()`: once the interpreter has specialised that call, it no longer looks whether the method left an
# exception behind, and the SystemError comes up in whatever is called next (tried, Python 3.11).
_headers_of: Any = methodcaller("headers")


def read_headers(message: Message) -> Headers:
    """The headers; None where a name among them is not UTF-8.

    confluent-kafka raises SystemError then, and crashes the process when it is asked a second time (tried, 2.16.1), so
    a message must be asked only once.
    """
    try:
        headers = _headers_of(message)
    except SystemError as error:
        _log.warning(
            "headers_unreadable",
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            cause=type(error.__cause__).__name__,
        )
        return None
    return list(headers.items()) if isinstance(headers, dict) else headers
