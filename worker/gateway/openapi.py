"""What the OpenAPI document says about the body of POST /generate: the fields, with the limits of this installation."""

from __future__ import annotations

from typing import Any

from worker.job import MAX_NAME_CHARS, SCHEDULERS
from worker.presets import PRESETS
from worker.settings import Settings

NAME_PATTERN = rf"^[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{MAX_NAME_CHARS - 1}}}$"
_LONG = 2**63
_LEVEL = {"type": "integer", "minimum": 0, "maximum": 100, "default": 0}
_MOMENT = {"type": ["string", "null"], "format": "date-time", "default": None}


def request_schema(settings: Settings) -> dict[str, Any]:
    """JSON Schema of a request; what it cannot say (words, pixels in all) is said by the refusal."""
    prompt = {"type": "string", "maxLength": settings.max_prompt_chars}
    side = {
        "type": "integer",
        "minimum": settings.min_side,
        "maximum": settings.max_side,
        "multipleOf": 8,
        "default": 1024,
        "description": f"In pixels. Width times height is {settings.max_pixels} at most.",
    }
    weight = {"minimum": -settings.max_lora_weight, "maximum": settings.max_lora_weight, "default": 1.0}
    lora = {
        "type": "object",
        "properties": {"name": {"type": "string", "pattern": NAME_PATTERN}, "weight": {"type": "number"} | weight},
        "required": ["name"],
    }
    properties: dict[str, Any] = {
        "girl_id": {"type": "string", "pattern": NAME_PATTERN, "description": "Chooses the profile."},
        "user_id": {"type": "integer", "minimum": -_LONG, "maximum": _LONG - 1},
        "prompt": prompt | {"minLength": 1, "pattern": r"\S"},
        "negative_prompt": prompt | {"type": ["string", "null"], "default": None},
        "affection_level": _LEVEL,
        "nsfw_level": _LEVEL,
        "num_inference_steps": {
            "type": "integer",
            "minimum": 1,
            "maximum": settings.max_inference_steps,
            "default": 30,
        },
        "guidance_scale": {"type": "number", "minimum": 0, "maximum": settings.max_guidance_scale, "default": 7.5},
        "high_quality": {"type": "boolean", "default": False},
        "priority": {"type": "string", "enum": ["urgent", "high", "normal"], "default": "normal"},
        "width": side,
        "height": side,
        "seed": {"type": ["integer", "null"], "minimum": 0, "maximum": _LONG - 1, "default": None},
        "scheduler": {"type": "string", "enum": [*SCHEDULERS, *PRESETS], "default": SCHEDULERS[0]},
        "loras": {"type": "array", "items": lora, "maxItems": settings.max_loras, "default": []},
        "output_format": {"type": "string", "enum": ["jpeg", "webp", "png"], "default": "jpeg"},
        "job_id": {
            "type": "string",
            "pattern": NAME_PATTERN,
            "description": "Made up where it is absent. It must not end in _thumb.",
        },
        "requested_at": _MOMENT,
        "expires_at": _MOMENT | {"description": "When nobody needs the picture any more."},
    }
    return {
        "title": "GenerationRequest",
        "type": "object",
        "properties": properties,
        "required": ["girl_id", "user_id", "prompt"],
        "additionalProperties": False,
        "example": _example(settings),
    }


def _example(settings: Settings) -> dict[str, Any]:
    """A request as this installation draws it well; the page's form begins with its size."""
    width, height = map(int, settings.gateway_page_size.split("x"))
    example = {"girl_id": "test", "user_id": 1, "prompt": "a lighthouse at dusk", "priority": "normal"}
    return example | {"width": width, "height": height}
