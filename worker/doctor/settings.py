"""The settings that need no network: what the start of a worker would refuse, and what is worth a second look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from worker.doctor.finding import Finding, failed, ok, warning
from worker.errors import SettingsError
from worker.rule_files import read_rules
from worker.settings import DOTENV, Settings, secrets_dir
from worker.startup import check_kafka_properties

SUBJECT = "settings"


def check(settings: Settings) -> Iterator[Finding]:
    """Look at the bucket's name, paths, librdkafka's properties, profiles and content rules."""
    found = [
        *_refused(lambda: settings.bucket),
        *_refused(settings.check_paths),
        *_refused(lambda: check_kafka_properties(settings)),
        *_refused(lambda: read_rules(settings)),
    ]
    yield from (failed(SUBJECT, text, "put this setting right; docs/settings.md describes it") for text in found)
    if not found:
        folder = secrets_dir()
        sources = ["the environment", *([DOTENV] if Path(DOTENV).is_file() else []), *([folder] if folder else [])]
        yield ok(SUBJECT, f"read from {', '.join(sources)}")
    if settings.delivery == "at-least-once":
        yield warning(
            SUBJECT,
            "DELIVERY is at-least-once: consumers may see a result twice",
            "use exactly-once, unless the brokers have no transactions",
        )


def _refused(look: Callable[[], object]) -> list[str]:
    try:
        look()
    except SettingsError as error:
        return [str(error)]
    return []
