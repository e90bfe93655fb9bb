"""Why a request over HTTP is not carried out, in one shape for all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response


class Refusal(Exception):
    """An answer other than what was asked for.

    Args:
        status: the HTTP status.
        error: one sentence that a person can act on.
        field: the field, parameter or header that it is about.
        code: the error_code that a worker would give.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        error: str,
        field: str | None = None,
        code: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.field = field
        self.code = code
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer, as `shapes.Problem` describes it."""
        told = {"error": self.error, "field": self.field, "code": self.code}
        body = json.dumps({name: text for name, text in told.items() if text is not None})
        return Response(body, self.status, self.headers, media_type="application/json")


def try_later(error: str, after_s: int = 1, status: int = 503) -> Refusal:
    """A refusal that does not hold for long."""
    return Refusal(status, error, headers={"Retry-After": str(after_s)})
