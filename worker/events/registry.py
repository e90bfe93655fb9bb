"""confluent-kafka's client of a schema registry, with its errors sorted into two kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from confluent_kafka.schema_registry import (
    RegisteredSchema,
    RuleKind,
    RuleMode,
    SchemaRegistryClient,
    SchemaRegistryError,
)
from confluent_kafka.schema_registry import Schema as RegistrySchema

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.avro_binary import AvroError
from worker.events.avro_schema import MAX_SCHEMA_CHARS, Names, parse_type
from worker.events.writers import Writer

# The caller retries, so the client gives up soon.
TIMEOUT_S = 3
_MAX_RETRIES = 1
_RETRY_WAIT_MS = 100
# Subject, version and schema.
_NOT_FOUND = {40401, 40402, 40403}
_FORBIDDEN = 403
_MAX_REFERENCES = 100
_MAX_REASON = 300

_P = ParamSpec("_P")
_T = TypeVar("_T")


class SchemaKey(NamedTuple):
    """What a record says about its writer's schema: a registry's id or GUID, and a subject to help finding it."""

    id: int | None
    guid: str | None
    subject: str | None

    def __str__(self) -> str:
        return self.guid or str(self.id)


class SchemaNotFound(Exception):
    """The registry does not know the schema, or not yet."""


class _Forbidden(RegistryUnavailable):
    """The registry knows who asks, and does not answer them."""


class Registry(SchemaRegistryClient):
    """The client; its calls block for some seconds at most.

    Args:
        user_info: `user:password`.
        properties: further ones of confluent-kafka's client.

    Raises:
        ValueError: one of these has the wrong form, or is no property of the client.
    """

    def __init__(
        self, url: str, user_info: str | None = None, properties: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        # What only Confluent's cloud asks for, and the client insists on.
        cloud = {"bearer.auth.logical.cluster": ""} if "bearer.auth.credentials.source" in properties else {}
        conf: dict[str, object] = {
            **cloud,
            **properties,
            "url": url,
            "timeout": TIMEOUT_S,
            "max.retries": _MAX_RETRIES,
            "retries.wait.ms": _RETRY_WAIT_MS,
        }
        super().__init__(conf if user_info is None else conf | {"basic.auth.user.info": user_info})

    def register_schema_full_response(self, *args: Any, **kwargs: Any) -> RegisteredSchema:
        try:
            found = _ask(super().register_schema_full_response, *args, **kwargs)
        except SchemaNotFound as error:
            raise RegistryUnavailable(f"the schema registry refuses: {error}") from error
        if type(found.schema_id) is not int:
            raise self._no_answer()
        return found

    def writer(self, key: SchemaKey) -> Writer:
        """The writer's schema, ready to read with.

        Raises:
            SchemaNotFound: the registry does not know it.
            RegistryUnavailable: there is no answer.
            UndecodableError: it is no schema that can be read with.
        """
        found = self._find(key)
        if found.schema_type not in (None, "AVRO"):
            raise UndecodableError(f"the writer's schema {key} is {found.schema_type}, not Avro")
        rule = _unread_rule(found)
        if rule is not None:
            raise UndecodableError(f"the writer's schema {key} has the rule {rule}, which this service does not undo")
        try:
            names: Names = {}
            *references, text = self._texts(found, set())
            for reference in references:
                parse_type(reference, names)
            return Writer(text, names)
        except AvroError as error:
            raise UndecodableError(f"the writer's schema {key} is unusable: {error}") from error

    def _find(self, key: SchemaKey) -> RegistrySchema:
        if key.guid is not None:
            return _ask(self.get_schema_by_guid, key.guid)
        assert key.id is not None
        try:
            return _ask(self.get_schema, key.id)
        except (SchemaNotFound, _Forbidden):
            # Some registries know an id only within its subject's context, or answer only those who may read that.
            if key.subject is None:
                raise
            return _ask(self.get_schema, key.id, key.subject)

    def _texts(self, schema: RegistrySchema, seen: set[tuple[str, int]]) -> list[str]:
        """The schema's text after those that it refers to."""
        texts = []
        for reference in schema.references or ():
            subject, version = reference.subject, reference.version
            if subject is None or version is None:
                raise AvroError("a reference without subject or version")
            if (subject, version) in seen:
                continue
            if len(seen) >= _MAX_REFERENCES:
                raise AvroError(f"it refers to more than {_MAX_REFERENCES} schemas")
            seen.add((subject, version))
            texts += self._texts(_ask(self.get_version, subject, version, deleted=True).schema, seen)
        texts.append(self._text(schema))
        if sum(map(len, texts)) > MAX_SCHEMA_CHARS:
            raise AvroError(f"with what it refers to it has more than {MAX_SCHEMA_CHARS} characters")
        return texts

    def _text(self, schema: RegistrySchema) -> str:
        if not isinstance(schema.schema_str, str):
            raise self._no_answer()
        return schema.schema_str

    def _no_answer(self) -> RegistryUnavailable:
        """What is not a registry may answer with JSON, too, and the client remembers it like a schema."""
        self.clear_caches()  # type: ignore[no-untyped-call]  # confluent-kafka's own
        return RegistryUnavailable("the schema registry's answer holds no schema")


def registry_problem(error: Exception, properties: Mapping[str, str]) -> str:
    """Why the client was not made, in one line without a value, which may be a secret."""
    if isinstance(error, OSError):
        files = [name for name in sorted(properties) if name.endswith(".location")]
        return f"{error.strerror or 'not a certificate or key'}: look at {', '.join(files)}"
    text = str(error)
    for value in sorted(filter(None, properties.values()), key=len, reverse=True):
        text = text.replace(value, "…")
    return " ".join(text.split())[:_MAX_REASON]


def _unread_rule(schema: RegistrySchema) -> str | None:
    """A rule of the schema, such as encryption, by which the bytes are not what the schema says."""
    rules = schema.rule_set
    for rule in () if rules is None else (*(rules.domain_rules or ()), *(rules.encoding_rules or ())):
        counts = rule.mode in (RuleMode.READ, RuleMode.WRITEREAD) and not rule.disabled
        if counts and rule.kind is not RuleKind.CONDITION:
            return f"{rule.name} ({rule.type})"
    return None


def _ask(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return call(*args, **kwargs)
    except SchemaRegistryError as error:
        if error.error_code in _NOT_FOUND:
            raise SchemaNotFound(str(error)) from error
        kind = _Forbidden if error.http_status_code == _FORBIDDEN else RegistryUnavailable
        raise kind(f"the schema registry refuses: {str(error)[:_MAX_REASON]}") from error
    except Exception as error:
        # The client lets through what its HTTP library raises, which may be httpx or httpx2.
        name = type(error).__name__
        raise RegistryUnavailable(f"no answer from the schema registry: {name}: {str(error)[:_MAX_REASON]}") from error
