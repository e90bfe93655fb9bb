"""What is wrong with a setting, as one line for people. Values are not repeated, they may be secrets."""

from __future__ import annotations

import re

from pydantic import ValidationError

# For people, what the patterns of these settings say.
_FORMS = {
    "KAFKA_TOPIC_PREFIX": "made of letters, digits, dots, _ and -, 200 at most",
    "WORKER_ID": "made of letters, digits, dots, _ and -, 128 at most",
    "CLOUDFRONT_KEY_PAIR_ID": "the id of a public key, such as K2JCJMDEHXQW5F",
    "AWS_REGION": "a region's name, such as eu-west-1",
    "MSK_IAM_REGION": "a region's name, such as eu-west-1",
    "DEVICE": "auto, cpu, mps, cuda or cuda:N",
    "COMPILE_SIZES": "16 sizes at most, as width x height in pixels, such as 1024x1024,832x1216",
    "GATEWAY_PAGE_SIZE": "width x height in pixels, such as 1024x1024",
    "NSFW_DETECTOR": "none, skin, nudenet or module:callable",
}


def validation_problems(error: ValidationError) -> str:
    """One sentence for each setting that is wrong."""
    return "; ".join(_problem(e["loc"], e["type"], e["msg"]) for e in error.errors())


def _problem(place: tuple[int | str, ...], kind: str, message: str) -> str:
    # Pydantic marks what a validator said; where it is about several settings, it names them itself.
    message = message.removeprefix("Value error, ")
    name = ".".join([str(place[0]).upper(), *(str(part) for part in place[1:])]) if place else "settings"
    if kind == "string_pattern_mismatch":
        message = f"it must be {_FORMS[name]}"
    return f"{name}: {message}"


def source_problem(message: str) -> str:
    """pydantic-settings speaks of its own sources; the only thing that they cannot read is JSON."""
    found = re.search(r'value for field "(\w+)"', message)
    return message if found is None else f"{found[1].upper()}: it is no valid JSON"
