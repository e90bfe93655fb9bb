"""What the peers read and write: JSON, on topics below one prefix."""

from __future__ import annotations

import os

from pydantic import BaseModel

LANES = ("urgent", "high", "normal")


class Request(BaseModel):
    """A picture that is wanted."""

    job_id: str
    prompt: str
    negative_prompt: str = ""
    steps: int = 30
    guidance: float = 5.0
    width: int = 1024
    height: int = 1024
    seed: int = 0


class Completed(BaseModel):
    """A picture that is stored."""

    job_id: str
    image_key: str
    seconds: float


def topics(prefix: str) -> tuple[list[str], str]:
    """Return the request topics, the most urgent first, and that of completed requests."""
    return [f"{prefix}requests.{lane}" for lane in LANES], f"{prefix}completed"


def from_environment() -> tuple[str, str]:
    """Return the brokers' addresses and the topics' prefix."""
    return os.environ["KAFKA_BOOTSTRAP_SERVERS"], os.environ["PEER_PREFIX"]
