"""Signing in to a real Kafka: mutual TLS, OAuth with a token endpoint, and tokens of a callback as for Amazon MSK."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from devtools.local.kafka import KafkaCluster
from devtools.local.process import free_ports
from tests.conftest import require_java
from tests.security.certificates import Files, write_certificates
from tests.security.tokens import TokenEndpoint, unsigned_token
from worker import kafka_config, msk_iam
from worker.settings import Settings, load_settings
from worker.topic_admin import create_topics
from worker.topics import Topics

SIGN = "generate_auth_token_from_credentials_provider"
MODULE = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"


@dataclass(frozen=True, slots=True)
class Secured:
    """A broker that wants a certificate on one port and a token on another."""

    tls: str
    tokens: str
    files: Files


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    require_java()
    files = write_certificates(tmp_path_factory.mktemp("certificates"), "broker", "worker")
    tls, tokens = free_ports(2)
    settings = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(files.both("broker")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(files.authority),
        "ssl.client.auth": "required",
        "listener.security.protocol.map": ",".join(
            ("CONTROLLER:PLAINTEXT", *(f"{name}:{name}" for name in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT")))
        ),
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config": f"{MODULE} required;",
    }
    listeners = {"SSL": [tls], "SASL_PLAINTEXT": [tokens]}
    with KafkaCluster(1, tmp_path_factory.mktemp("kafka"), settings=settings, listeners=listeners):
        yield Secured(f"127.0.0.1:{tls}", f"127.0.0.1:{tokens}", files)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("WORKER_ID", "worker-1")
    return monkeypatch


def configure(environment: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        environment.setenv(name, value)
    return load_settings()


def tls_variables(secured: Secured) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": secured.tls,
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CA_LOCATION": str(secured.files.authority),
        "KAFKA_SSL_CERTIFICATE_LOCATION": str(secured.files.certificate("worker")),
        "KAFKA_SSL_KEY_LOCATION": str(secured.files.key("worker")),
    }


def oauth_variables(secured: Secured, endpoint: TokenEndpoint, secret: str) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": secured.tokens,
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
        "KAFKA_SASL_OAUTHBEARER_METHOD": "oidc",
        "KAFKA_SASL_OAUTHBEARER_CLIENT_ID": "client",
        "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET": secret,
        "KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL": endpoint.url,
    }


def see_all_clients_work(settings: Settings) -> None:
    """The clients of a worker, made as it makes them: admin, transactional producer, and consumer."""
    topics = Topics(f"t{uuid.uuid4().hex[:8]}.")
    create_topics(kafka_config.bounds_config(settings), topics, partitions=1)
    assert AdminClient(kafka_config.bounds_config(settings)).list_topics(timeout=20).brokers
    identity = {"transactional.id": kafka_config.transactional_id(settings)}
    producer = Producer(kafka_config.producer_config(settings, identity))
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topics.failed, b"value")
    producer.commit_transaction(20)
    consumer = Consumer(kafka_config.reader_config(settings))
    consumer.assign([TopicPartition(topics.failed, 0, 0)])
    record = consumer.poll(20)
    assert record is not None
    assert record.value() == b"value"
    consumer.close()


def is_refused(settings: Settings) -> bool:
    try:
        AdminClient(kafka_config.bounds_config(settings)).list_topics(timeout=3)
    except KafkaException:
        return True
    return False


def test_mutual_tls(secured: Secured, environment: pytest.MonkeyPatch) -> None:
    see_all_clients_work(configure(environment, **tls_variables(secured)))


def test_without_a_certificate_the_broker_refuses(secured: Secured, environment: pytest.MonkeyPatch) -> None:
    variables = tls_variables(secured)
    for name in ("KAFKA_SSL_CERTIFICATE_LOCATION", "KAFKA_SSL_KEY_LOCATION"):
        del variables[name]
    assert is_refused(configure(environment, **variables))


def test_oauth_with_a_token_endpoint(secured: Secured, environment: pytest.MonkeyPatch) -> None:
    with TokenEndpoint() as endpoint:
        see_all_clients_work(configure(environment, **oauth_variables(secured, endpoint, "secret")))
        assert endpoint.grants[0]["grant_type"] == ["client_credentials"]


def test_with_a_wrong_secret_there_is_no_token(secured: Secured, environment: pytest.MonkeyPatch) -> None:
    with TokenEndpoint() as endpoint:
        assert is_refused(configure(environment, **oauth_variables(secured, endpoint, "wrong")))
        assert endpoint.grants


def test_tokens_of_the_msk_callback_reach_every_client(secured: Secured, environment: pytest.MonkeyPatch) -> None:
    # No MSK runs here: its token is replaced by one that this broker takes, and TLS is left out.
    asked: list[str] = []

    def token(region: str, _provider: object) -> tuple[str, int]:
        asked.append(region)
        return unsigned_token(), 4_102_444_800_000

    environment.setattr(MSKAuthTokenProvider, SIGN, token)
    settings = configure(
        environment,
        KAFKA_BOOTSTRAP_SERVERS=secured.tokens,
        MSK_IAM_REGION="eu-west-1",
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
    )
    see_all_clients_work(settings)
    assert set(asked) == {"eu-west-1"}
    assert len(asked) >= 3


def test_credentials_that_come_late_are_enough(secured: Secured, environment: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def token(region: str, _provider: object) -> tuple[str, int]:
        tries.append(region)
        if len(tries) == 1:
            raise ValueError("no credentials yet")
        return unsigned_token(), 4_102_444_800_000

    environment.setattr(MSKAuthTokenProvider, SIGN, token)
    environment.setattr(msk_iam, "RETRY_S", 1.0)
    settings = configure(
        environment,
        KAFKA_BOOTSTRAP_SERVERS=secured.tokens,
        MSK_IAM_REGION="eu-west-1",
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
    )
    assert AdminClient(kafka_config.bounds_config(settings) | {"log_level": 0}).list_topics(timeout=30).brokers
    assert len(tries) >= 2


def test_an_expired_token_is_refused(secured: Secured, environment: pytest.MonkeyPatch) -> None:
    expired = unsigned_token(lifetime_s=-600)
    environment.setattr(MSKAuthTokenProvider, SIGN, lambda *_: (expired, 4_102_444_800_000))
    settings = configure(
        environment,
        KAFKA_BOOTSTRAP_SERVERS=secured.tokens,
        MSK_IAM_REGION="eu-west-1",
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
    )
    assert is_refused(settings)
