"""Settings of profiles, of how prompts are read, and of the content rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from worker import settings_checks as checks
from worker.prompt_syntax import PromptSyntax
from worker.settings.section import Section


class ContentSettings(Section):
    """What a prompt becomes, and what neither prompt nor picture may be."""

    profiles_path: Path | None = Field(
        None,
        description="folder of profiles, of which girl_id chooses one; when unset, prompts are drawn as they are sent",
    )
    prompt_syntax: PromptSyntax = Field(
        PromptSyntax.LITERAL,
        description="how brackets in prompts are read: `literal`, as text; `a1111`, as weights such as (word:1.3) "
        "and [word], with BREAK and \\( for a bracket (docs/prompts.md)",
    )
    nsfw_detector: str = Field(
        "none",
        description="what scores finished pictures: none, skin, nudenet (not installed with the "
        "worker) or a plug-in, module:callable",
        pattern=r"^(none|skin|nudenet|[\w.]+:[\w.]+)$",
    )
    nsfw_action: Literal["reject", "blur"] = Field(
        "reject", description="what happens to a picture that scores above its threshold"
    )
    nsfw_thresholds: dict[int, float] = Field(
        default_factory=lambda: {0: 0.4, 1: 0.7, 50: 1.0},
        description="from each nsfw_level up, the highest score that passes; the levels must begin with 0",
    )
    content_deny_path: Path | None = Field(None, description="file of phrases that no prompt may contain, one a line")

    @field_validator("prompt_syntax", mode="before")
    @classmethod
    def _prompt_syntax_in_any_case(cls, value: Any) -> Any:
        return checks.in_any_case(value)

    @field_validator("nsfw_thresholds")
    @classmethod
    def _rising(cls, thresholds: dict[int, float]) -> dict[int, float]:
        levels = sorted(thresholds)
        scores = [thresholds[level] for level in levels]
        if not levels or levels[0] != 0 or levels[-1] > 100:
            raise ValueError("the levels must begin with 0 and end at 100 at most")
        if not all(0 <= score <= 1 for score in scores) or scores != sorted(scores):
            raise ValueError("the scores must be from 0 to 1, and a higher level must not allow less")
        return thresholds
