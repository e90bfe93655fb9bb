"""Why a LoRA file is rejected."""

from __future__ import annotations


class Unfit(Exception):
    """A file is rejected; the message is the reason, to follow the LoRA's name."""
