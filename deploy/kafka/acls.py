"""Prints kafka-acls.sh commands for the rights of a Strimzi KafkaUser, for clusters without Strimzi.

python deploy/kafka/acls.py k8s/kafka/user.yaml k8s/clients/producer.yaml
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

_FLAGS = {"topic": "--topic", "group": "--group", "transactionalId": "--transactional-id"}
_PATTERNS = {"prefix": "prefixed", "literal": "literal"}


def commands(user: dict[str, Any]) -> list[str]:
    """One command for each resource of the user."""
    principal = f"User:{user['metadata']['name']}"
    found = []
    for acl in user["spec"]["authorization"]["acls"]:
        resource = acl["resource"]
        words = [
            "kafka-acls.sh",
            "--bootstrap-server",
            "$KAFKA_BOOTSTRAP_SERVERS",
            "--add",
            "--allow-principal",
            principal,
        ]
        for operation in acl["operations"]:
            words += ["--operation", operation]
        words += [
            _FLAGS[resource["type"]],
            resource["name"],
            "--resource-pattern-type",
            _PATTERNS[resource["patternType"]],
        ]
        found.append(" ".join(word if word.startswith("$") else shlex.quote(word) for word in words))
    return found


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print("\n".join(commands(yaml.safe_load(Path(name).read_text()))))
