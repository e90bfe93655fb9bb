"""What each field of a request and of a job decides, and the two digests that follow from it. Pure.

The tables below are the only place where this is declared. A field that is missing from its table stops the import, so
that a new field cannot be left out of a digest by accident.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from enum import Enum
from typing import Any

from worker.errors import ProtocolError
from worker.events.types import GenerationRequest, Lora
from worker.job import Job


class Decides(Enum):
    """What a field decides about the picture."""

    PIXELS = "the pixels, directly or through the profile, the seed or the LoRAs that are chosen by it"
    FILE = "the file that the pixels become, or whom it belongs to"
    NOTHING = "nothing about the picture: when it is wanted, or where the job stands"


REQUEST_FIELDS: Mapping[str, Decides] = {
    "job_id": Decides.PIXELS,  # the seed of a request without one
    "girl_id": Decides.PIXELS,  # the profile
    "user_id": Decides.FILE,
    "prompt": Decides.PIXELS,
    "negative_prompt": Decides.PIXELS,
    "affection_level": Decides.PIXELS,  # the profile's fragment
    "nsfw_level": Decides.PIXELS,  # the profile's fragment, and whether the picture is blurred
    "num_inference_steps": Decides.PIXELS,
    "guidance_scale": Decides.PIXELS,
    "high_quality": Decides.PIXELS,
    "priority": Decides.NOTHING,  # the topic decides the lane
    "width": Decides.PIXELS,
    "height": Decides.PIXELS,
    "seed": Decides.PIXELS,
    "scheduler": Decides.PIXELS,
    "loras": Decides.PIXELS,
    "output_format": Decides.FILE,
    "requested_at": Decides.NOTHING,
    "expires_at": Decides.NOTHING,
}

LORA_FIELDS: Mapping[str, Decides] = {"name": Decides.PIXELS, "weight": Decides.PIXELS}

JOB_FIELDS: Mapping[str, Decides] = {
    "prompt": Decides.PIXELS,
    "negative_prompt": Decides.PIXELS,
    "seed": Decides.PIXELS,
    "loras": Decides.PIXELS,
    "request": Decides.PIXELS,  # field by field, by the table above
    "preset": Decides.PIXELS,
    "prompt_syntax": Decides.PIXELS,
    "call_samples": Decides.PIXELS,
    "lora_method": Decides.PIXELS,
    "compiled": Decides.PIXELS,
    "profile": Decides.NOTHING,  # what it says is in the prompts and LoRAs by now
    "lane": Decides.NOTHING,
    "origin": Decides.NOTHING,
    "attempt": Decides.NOTHING,
    "requested_at": Decides.NOTHING,
    "recorded_at": Decides.NOTHING,
    "received_at": Decides.NOTHING,
    "expires_at": Decides.NOTHING,
    "headers": Decides.NOTHING,
    "replay_id": Decides.NOTHING,
    "checkpoint": Decides.NOTHING,  # it holds a part of the way to the same pixels
}

_COMPOSED = ("prompt", "negative_prompt", "seed", "loras")
_ADDED = {name for name, decides in JOB_FIELDS.items() if decides is not Decides.NOTHING} - {*_COMPOSED, "request"}

# Enough of a SHA-256 for the checkpoints of one job.
_CHECKPOINT_DIGITS = 16


def check_declared(kind: type, table: Mapping[str, Decides]) -> None:
    """Hold a dataclass to its table.

    Raises:
        ProtocolError: a field is in no table, or the table has one that is gone.
    """
    names = {field.name for field in fields(kind)}
    for name in sorted(names - table.keys()):
        raise ProtocolError(f"{kind.__name__}.{name} is new: declare in worker/delivery/digest.py what it decides")
    for name in sorted(table.keys() - names):
        raise ProtocolError(f"{kind.__name__} has no field {name}: take it out of worker/delivery/digest.py")


_TABLES: Mapping[type, Mapping[str, Decides]] = {
    GenerationRequest: REQUEST_FIELDS,
    Lora: LORA_FIELDS,
    Job: JOB_FIELDS,
}
for _kind, _table in _TABLES.items():
    check_declared(_kind, _table)


def request_digest(request: GenerationRequest) -> str:
    """SHA-256 in hex over the fields that decide the picture and whose it is.

    A field at its default is left out, so that a field added to the schema later does not make every
    stored request a different one.
    """
    return hashlib.sha256(_json(_digestible(request))).hexdigest()


def pixels_digest(job: Job, model: Mapping[str, object]) -> str:
    """16 hex digits that are equal where job and worker give the same pixels, apart from the LoRAs' files.

    Args:
        model: all that is known of what draws the picture: model, card, precision, versions, batch size.
    """
    composed = [getattr(job, name) for name in _COMPOSED]
    recipe: dict[str, object] = {"request": request_digest(job.request), "composed": composed, "model": model}
    # Younger than the first checkpoints; left out at their default, so that those stay valid.
    recipe |= {
        field.name: _plain(getattr(job, field.name))
        for field in fields(Job)
        if field.name in _ADDED and getattr(job, field.name) != _default(field)
    }
    return hashlib.sha256(_json(recipe)).hexdigest()[:_CHECKPOINT_DIGITS]


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=dict, allow_nan=False).encode()


def _plain(value: Any) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _digestible(value: Any) -> object:
    match value:
        case Enum():
            return value.value
        # 7.0 and 7 are the same guidance scale, whichever client wrote it.
        case float() if value.is_integer():
            return int(value)
        case tuple():
            return [_digestible(item) for item in value]
        case _ if is_dataclass(value):
            table = _TABLES[type(value)]
            return {
                field.name: _digestible(item)
                for field in fields(value)
                if table[field.name] is not Decides.NOTHING and (item := getattr(value, field.name)) != _default(field)
            }
        case _:
            return value


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()
