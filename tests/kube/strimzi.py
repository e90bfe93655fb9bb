"""A stand-in for Strimzi's user and topic operators: it does in Kafka what KafkaUser and KafkaTopic objects say."""

from __future__ import annotations

import base64
import secrets
import threading
from pathlib import Path

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its stubs do not mark re-exports
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.kube.api import Api, Object

NAMESPACE = "kafka"
PERIOD_S = 0.5
KAFKA_TIMEOUT_S = 30.0
SCRAM_ITERATIONS = 4096
USERS = f"/apis/kafka.strimzi.io/v1/namespaces/{NAMESPACE}/kafkausers"
TOPICS = f"/apis/kafka.strimzi.io/v1/namespaces/{NAMESPACE}/kafkatopics"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
_RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactionalId": ResourceType.TRANSACTIONAL_ID,
}


class Strimzi:
    """Makes users' passwords, and with `admin` their credentials, ACLs and topics in a real Kafka."""

    def __init__(self, api: Api, authority: Path, admin: AdminClient | None = None) -> None:
        self._api = api
        self._admin = admin
        self._authority = authority.read_text()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="strimzi", daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        """The namespace and the CA's Secret, which a Strimzi cluster named `kafka` has, and the loop."""
        if self._api.find(f"/api/v1/namespaces/{NAMESPACE}") is None:
            self._api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        if self._api.find(f"{SECRETS}/kafka-cluster-ca-cert") is None:
            self._api.create(SECRETS, _secret("kafka-cluster-ca-cert", {"ca.crt": self._authority}))
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(KAFKA_TIMEOUT_S)

    def _loop(self) -> None:
        while not self._stop.wait(PERIOD_S):
            try:
                for topic in self._api.items(TOPICS):
                    if not topic.get("status"):
                        self._make_topic(topic)
                for user in self._api.items(USERS):
                    if not user.get("status"):
                        self._make_user(user)
            except Exception as error:  # the run ends with it
                self.error = error
                return

    def _make_topic(self, topic: Object) -> None:
        name, spec = topic["metadata"]["name"], topic["spec"]
        if self._admin is not None and name not in self._admin.list_topics(timeout=KAFKA_TIMEOUT_S).topics:
            config = {key: str(value) for key, value in spec["config"].items()}
            made = NewTopic(name, spec["partitions"], spec["replicas"], config=config)
            self._admin.create_topics([made])[name].result(KAFKA_TIMEOUT_S)
        self._api.patch(f"{TOPICS}/{name}/status", READY)

    def _make_user(self, user: Object) -> None:
        name = user["metadata"]["name"]
        found = self._api.find(f"{SECRETS}/{name}")
        if found is None:
            found = self._api.create(SECRETS, _secret(name, {"password": secrets.token_urlsafe(24)}))
        password = base64.b64decode(found["data"]["password"])
        if self._admin is not None:
            info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
            change = UserScramCredentialUpsertion(name, info, password)
            self._admin.alter_user_scram_credentials([change])[name].result(KAFKA_TIMEOUT_S)
            for future in self._admin.create_acls(acls(name, user["spec"])).values():
                future.result(KAFKA_TIMEOUT_S)
        self._api.patch(f"{USERS}/{name}/status", READY)


def acls(name: str, spec: Object) -> list[AclBinding]:
    """The ACLs of a KafkaUser with simple authorization."""
    return [
        AclBinding(
            _RESOURCES[rule["resource"]["type"]],
            rule["resource"]["name"],
            ResourcePatternType.PREFIXED
            if rule["resource"].get("patternType") == "prefix"
            else ResourcePatternType.LITERAL,
            f"User:{name}",
            "*",
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for rule in spec["authorization"]["acls"]
        for operation in rule["operations"]
    ]


def _secret(name: str, data: dict[str, str]) -> Object:
    return {"metadata": {"name": name}, "stringData": data}
