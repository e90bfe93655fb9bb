"""Brokers that know rights, and a user `worker` from whom they are taken and to whom they are given back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs do not mark re-exports
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

# How a worker signs in, on the listener `LISTENER`; on the plain one all are allowed.
USER: Mapping[str, str] = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KAFKA_SASL_MECHANISM": "PLAIN",
    "KAFKA_SASL_USERNAME": "worker",
    "KAFKA_SASL_PASSWORD": "secret",
}
LISTENER = "SASL_PLAINTEXT"
BROKER_SETTINGS: Mapping[str, str] = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    # What is not denied is allowed: each test takes one right away.
    "allow.everyone.if.no.acl.found": "true",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
        'org.apache.kafka.common.security.plain.PlainLoginModule required user_worker="secret";'
    ),
}
_TIMEOUT_S = 30.0

TakenTogether = tuple[AclBinding, ...]


def of_topic(name: str, operation: str) -> AclBinding:
    """That the user may not do this with a topic."""
    return _binding(ResourceType.TOPIC, name, operation)


def of_group(name: str, operation: str) -> AclBinding:
    """That the user may not do this with a consumer group."""
    return _binding(ResourceType.GROUP, name, operation)


def of_transactional_ids(prefix: str, operation: str) -> AclBinding:
    """That the user may not do this with transactional ids that begin so."""
    return _binding(ResourceType.TRANSACTIONAL_ID, prefix, operation, pattern=ResourcePatternType.PREFIXED)


def _binding(
    kind: ResourceType,
    name: str,
    operation: str,
    permission: AclPermissionType = AclPermissionType.DENY,
    pattern: ResourcePatternType = ResourcePatternType.LITERAL,
) -> AclBinding:
    return AclBinding(kind, name, pattern, "User:worker", "*", AclOperation[operation], permission)


def _filter_of(binding: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )


@dataclass
class Rights:
    """The rights of the user `worker`, on brokers with `BROKER_SETTINGS`."""

    admin: AdminClient

    @classmethod
    def at(cls, servers: str) -> Rights:
        """By the plain listener of these brokers; whatever is not denied is allowed from now on."""
        rights = cls(AdminClient({"bootstrap.servers": servers, "log_level": 0}))
        # Also on a resource of which something is denied.
        for kind in (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID):
            rights.take(_binding(kind, "*", "ALL", AclPermissionType.ALLOW))
        return rights

    def take(self, *bindings: AclBinding) -> None:
        """Take these rights away; returns when the controller knows."""
        for future in self.admin.create_acls(list(bindings)).values():
            future.result(_TIMEOUT_S)

    def give_back(self, *bindings: AclBinding) -> None:
        """Give them back."""
        for future in self.admin.delete_acls([_filter_of(binding) for binding in bindings]).values():
            future.result(_TIMEOUT_S)
