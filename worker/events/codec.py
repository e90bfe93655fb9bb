"""Bytes <-> events in either framing; a reader tells them apart by the first byte."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from worker.errors import SettingsError
from worker.events.single_object import Framing, Headers, SingleObjectCodec
from worker.events.types import E, Event
from worker.events.writer_files import writer_files
from worker.events.writers import Writer
from worker.settings import Settings


class EventCodec(Protocol):
    """What turns events into record values and back.

    With a registry, every method may raise RegistryUnavailable: wait and try the same again. Nothing else is raised
    that is not named here, and no record takes long, whatever its bytes and its writer's schema.
    """

    def encode(self, event: Event, *, topic: str) -> tuple[bytes, Framing]:
        """The value of a record on `topic`, and headers that belong to its framing."""
        ...

    def decode(self, data: bytes | None, *, topic: str, headers: Headers, expected: type[E]) -> E:
        """The event of a record's value; every field has exactly the declared type.

        Raises:
            UndecodableError: the value is not exactly one event of the expected type.
        """
        ...

    def decode_any(self, data: bytes | None, *, topic: str | None, headers: Headers) -> Event:
        """The event of a record's value, whichever it is; a topic helps the registry where it is known.

        Raises:
            UndecodableError: the value is not exactly one event.
        """
        ...

    def writer(
        self, data: bytes, *, topic: str | None, headers: Headers, expected: str | None = None
    ) -> tuple[Writer, int]:
        """The schema that a record's value was written with, and the byte at which the record begins.

        `expected`: the name of the only record that may be there; the error of an unknown schema names such ones.

        Raises:
            UndecodableError: it names none that is known.
        """
        ...

    def close(self) -> None:
        """Close the registry's connections; the codec is of no use afterwards."""
        ...


def make_codec(settings: Settings, extra_schemas: Iterable[str] = (), *, waits: bool = True) -> EventCodec:
    """Confluent framing where `SCHEMA_REGISTRY_URL` is set, else single-object encoding.

    Args:
        extra_schemas: as for `SingleObjectCodec`, besides those of `WRITER_SCHEMAS_PATH`.
        waits: whether decoding waits for a schema that is being fetched. The poll thread must not: it gets
            RegistryUnavailable at once, and the schema when it asks again.

    Raises:
        SettingsError: the registry's URL or user info has the wrong form, or a file of `WRITER_SCHEMAS_PATH`.
    """
    extra_schemas = (*extra_schemas, *writer_files(settings.writer_schemas_path))
    if settings.schema_registry_url is None:
        return SingleObjectCodec(extra_schemas)
    # confluent-kafka's registry client takes most of a second to import.
    from worker.events.confluent import ConfluentCodec
    from worker.events.registry import Registry, registry_problem
    from worker.events.schema_lookup import COMMAND, POLL_THREAD

    user_info = settings.schema_registry_user_info
    properties = settings.schema_registry_properties
    try:
        registry = Registry(
            settings.schema_registry_url, None if user_info is None else user_info.get_secret_value(), properties
        )
    except (ValueError, OSError) as error:
        if properties:
            raise SettingsError(f"SCHEMA_REGISTRY_PROPERTIES: {registry_problem(error, properties)}") from None
        raise SettingsError(
            "SCHEMA_REGISTRY_URL starts with http:// or https://, SCHEMA_REGISTRY_USER_INFO is user:password,"
            " and credentials stand in only one of them"
        ) from None
    return ConfluentCodec(registry, extra_schemas, COMMAND if waits else POLL_THREAD)
