"""Requests from JSON lines, which `worker.client.requests` builds, and from the flags of `submit`."""

from __future__ import annotations

import math

from worker.client.requests import request_from_line, request_from_record, request_topic, utc_now
from worker.events.types import Lora

__all__ = ["parse_lora", "parse_size", "request_from_line", "request_from_record", "request_topic", "utc_now"]


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size such as `1024x768` into width and height in pixels.

    Raises:
        ValueError: the text does not have that form.
    """
    width, cross, height = text.lower().partition("x")
    if not (cross and width.strip().isdecimal() and height.strip().isdecimal()):
        raise ValueError(f"{text!r} is not WIDTHxHEIGHT, such as 1024x768")
    return int(width), int(height)


def parse_lora(text: str) -> Lora:
    """Parse `name` or `name:weight`.

    Raises:
        ValueError: the weight is not a number, or the name is empty.
    """
    name, _, weight = text.rpartition(":") if ":" in text else (text, "", "1")
    try:
        lora = Lora(name=name.strip(), weight=float(weight))
        if not math.isfinite(lora.weight):
            raise ValueError(weight)
    except ValueError:
        raise ValueError(f"{text!r} is not NAME or NAME:WEIGHT, such as ink:0.8") from None
    if not lora.name:
        raise ValueError(f"{text!r} does not name a LoRA")
    return lora
