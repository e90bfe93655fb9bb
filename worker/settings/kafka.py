"""Settings of Kafka, of its groups, and of the schema registry."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from worker import settings_checks as checks
from worker.settings.section import Section

# Variables that share the KAFKA_ prefix but are no librdkafka property: this object's own, those that
# Kubernetes injects for a Service named `kafka` or `kafka-…`, and those of Kafka's own Java tools.
_NOT_A_PROPERTY = re.compile(
    r"KAFKA_(BOOTSTRAP_SERVERS|GROUP_ID|GROUP_PROTOCOL|TOPIC_PREFIX|PROPERTIES|(.*_)?SERVICE_(HOST|PORT).*|(.*_)?PORT(_\d+_.*)?"
    r"|HOME|VERSION|OPTS|HEAP_OPTS|JMX_.*|LOG4J_.*|.*_OPTS)"
)


def librdkafka_properties(environ: dict[str, str]) -> dict[str, str]:
    """`KAFKA_SASL_MECHANISM=PLAIN` becomes `{"sasl.mechanism": "PLAIN"}`, and so for any property."""
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environ.items()
        if name.startswith("KAFKA_") and not _NOT_A_PROPERTY.fullmatch(name)
    }


class KafkaSettings(Section):
    """How Kafka and the schema registry are reached, and in which groups."""

    kafka_bootstrap_servers: str = Field(
        "localhost:9092", description="Kafka brokers to start from, as host:port, comma separated"
    )
    kafka_group_id: str = Field("sdxl-worker", description="consumer group that the workers join", max_length=200)
    kafka_group_protocol: Literal["consumer", "classic"] = Field(
        "consumer",
        description="`consumer`: the KIP-848 protocol with the broker's assignor `uniform`; "
        "`classic`: the old protocol with the client's assignor `cooperative-sticky`",
    )
    kafka_topic_prefix: str = Field(
        "", description="text that is put before every topic name", pattern=r"^[A-Za-z0-9._-]{0,200}$"
    )
    input: Literal["requests", "work"] = Field(
        "requests",
        description="`requests`: the worker reads the request topics; `work`: those that `sdxl-worker dispatch` fills",
    )
    dispatch_group_id: str = Field(
        "sdxl-dispatch", description="consumer group that the dispatchers join", max_length=200
    )
    dispatch_buffer_per_partition: int = Field(
        256,
        ge=1,
        le=4_096,
        description="number of requests of a partition that a dispatcher holds before it pauses the partition",
    )
    kafka_properties: dict[str, str] = Field(
        default_factory=dict,
        description="further librdkafka properties, as a JSON object of texts",
        repr=False,
    )
    msk_iam_region: str | None = Field(
        None,
        description="region of an Amazon MSK cluster, such as eu-west-1; when set, clients sign in with IAM over TLS, "
        "with the AWS_ keys or the machine's role (docs/security.md)",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$",
    )
    schema_registry_url: str | None = Field(
        None,
        description="schema registry; when set, events are written with Confluent framing, otherwise "
        "in Avro single-object encoding",
    )
    schema_registry_user_info: SecretStr | None = Field(None, description="user:password for the schema registry")
    schema_registry_properties: dict[str, str] = Field(
        default_factory=dict,
        description="further properties of confluent-kafka's registry client, for TLS (`ssl.…`) and OAuth "
        "(`bearer.auth.…`), as a JSON object of texts (docs/security.md)",
        repr=False,
    )
    writer_schemas_path: Path | None = Field(
        None,
        description="folder of .avsc files: further schemas of producers that write single-object encoding with a "
        "schema of their own (docs/contract.md)",
    )
    delivery: Literal["exactly-once", "at-least-once"] = Field(
        "exactly-once",
        description="`at-least-once` is for brokers without transactions; consumers may then see a result twice",
    )
    worker_id: str = Field(
        default_factory=socket.gethostname,
        description="name of this worker, unique and the same after a restart; the transactional id is made from it",
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
    )

    @field_validator("delivery", mode="before")
    @classmethod
    def _delivery_in_any_case(cls, value: Any) -> Any:
        return checks.in_any_case(value)

    @field_validator("kafka_properties", "schema_registry_properties", mode="before")
    @classmethod
    def _as_librdkafka_writes_it(cls, properties: Any) -> Any:
        """JSON's numbers and booleans become text; whatever else is wrong is told by its type."""
        if not isinstance(properties, dict):
            return properties
        return {
            name: str(value).lower() if isinstance(value, bool | int | float) else value
            for name, value in properties.items()
        }

    @field_validator("kafka_properties", "schema_registry_properties")
    @classmethod
    def _encodable(cls, properties: dict[str, str]) -> dict[str, str]:
        for name, value in properties.items():
            checks.check_utf8(name + value)
        return properties

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _are_brokers(cls, value: str) -> str:
        return checks.brokers(value)

    @field_validator("schema_registry_url")
    @classmethod
    def _is_registry_url(cls, value: str | None) -> str | None:
        value = checks.no_trailing_slash(value)
        return None if value is None else checks.http_url(value)

    @model_validator(mode="after")
    def _kafka_is_consistent(self) -> Self:
        if self.schema_registry_properties and self.schema_registry_url is None:
            raise ValueError("SCHEMA_REGISTRY_PROPERTIES needs SCHEMA_REGISTRY_URL")
        mechanism = self.kafka_properties.get("sasl.mechanism", self.kafka_properties.get("sasl.mechanisms"))
        if self.msk_iam_region is not None and mechanism not in (None, "OAUTHBEARER"):
            raise ValueError("MSK_IAM_REGION signs in by OAUTHBEARER, but KAFKA_SASL_MECHANISM names another mechanism")
        if "@" in (self.schema_registry_url or ""):
            raise ValueError("SCHEMA_REGISTRY_URL must not hold credentials: use SCHEMA_REGISTRY_USER_INFO")
        if "transactional.id" in self.kafka_properties and self.delivery == "at-least-once":
            raise ValueError("transactional.id is set, but DELIVERY is at-least-once")
        return self

    def kafka_client_config(self) -> dict[str, str | int]:
        """What every librdkafka client needs, but for `kafka_config.sign_in`; the properties of the operator win."""
        return {
            "bootstrap.servers": self.kafka_bootstrap_servers,
            "client.id": self.worker_id,
            **self.kafka_properties,
        }
