"""How the paths answer: JSON of a shape, and the refusals that stand in their descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from worker.gateway import shapes

Responses = dict[int | str, dict[str, Any]]


def refused(*codes: int) -> Responses:
    """The refusals of a path, for its description."""
    return {code: {"model": shapes.Problem} for code in codes}


def as_json(answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A shape as the body; what is None is left out."""
    return JSONResponse(answer.model_dump(mode="json", exclude_none=True), status, headers)
