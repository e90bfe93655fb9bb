"""botocore's descriptions of S3, parsed once a process: each session parses them anew, which takes 0.1 s of a core."""

from __future__ import annotations

import functools

import pytest
from botocore.loaders import JSONFileLoader


def parse_once(patch: pytest.MonkeyPatch) -> None:
    """Let every session have the same description; one session's clients share it as well."""
    parsed = functools.cache(functools.partial(JSONFileLoader.load_file, JSONFileLoader()))
    patch.setattr(JSONFileLoader, "load_file", lambda _, path: parsed(path))
