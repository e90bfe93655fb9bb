"""What every section of the settings has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from worker import settings_checks as checks

DAY_S = 86_400.0


class Section(BaseModel):
    """The settings of one topic. Times are in the unit that ends the name; sizes are in pixels.

    Every number has both bounds: a typing error of some digits must not become a wait for years. `Settings` inherits
    from all sections, so that the names of fields, methods and validators are unique among them; a test holds that.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        return checks.one_line(value)
