"""The schema registry, where one is configured."""

from __future__ import annotations

import time
from collections.abc import Iterator

from worker.doctor.finding import Finding, failed, ok, skipped
from worker.settings import Settings

SUBJECT = "schema registry"


def check(settings: Settings) -> Iterator[Finding]:
    """Ask for its subjects; nothing is registered."""
    url = settings.schema_registry_url
    if url is None:
        yield skipped(SUBJECT, "none is set; events are written in Avro single-object encoding")
        return
    # It takes most of a second to import.
    from confluent_kafka.schema_registry import SchemaRegistryError

    from worker.events.registry import Registry

    given = settings.schema_registry_user_info
    began = time.monotonic()
    try:
        subjects = Registry(url, None if given is None else given.get_secret_value()).get_subjects()
    except SchemaRegistryError as error:
        forbidden = error.http_status_code in (401, 403)
        cure = "put SCHEMA_REGISTRY_USER_INFO right" if forbidden else "see the registry's own log"
        yield failed(SUBJECT, f"{url} answers {error.http_status_code}", cure)
    except Exception as error:  # the client lets its HTTP library's errors through, of whatever kind
        yield failed(SUBJECT, f"{url} does not answer ({type(error).__name__})", "put SCHEMA_REGISTRY_URL right")
    else:
        yield ok(SUBJECT, f"{url} answers with {len(subjects)} subjects ({time.monotonic() - began:.1f} s)")
