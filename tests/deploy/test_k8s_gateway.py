"""The gateway's component, rendered beside an overlay."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_k8s import K8S, build, errors, is_core
from tests.deploy.tools import documents, program, run
from worker.gateway.server import STOP_S
from worker.settings import Settings, librdkafka_properties
from worker.topics import Topics

Object = dict[str, Any]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """All that one-gpu and the gateway are together."""
    copy = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(K8S, copy)
    site = copy / "with-gateway"
    site.mkdir()
    kustomization = {"resources": ["../overlays/one-gpu"], "components": ["../gateway"]}
    (site / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return documents(build(site))


def one(objects: list[Object], kind: str) -> Object:
    [found] = [thing for thing in objects if thing["kind"] == kind and thing["metadata"]["name"] == "sdxl-gateway"]
    return found


def test_it_is_valid(objects: list[Object], tmp_path: Path) -> None:
    mine = [thing for thing in objects if thing["metadata"]["name"] == "sdxl-gateway"]
    assert {thing["kind"] for thing in mine} == {
        "Deployment", "Service", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget", "KafkaUser", "PodMonitor",
    }  # fmt: skip
    assert errors(one(objects, "KafkaUser")) == []
    assert errors(one(objects, "PodMonitor")) == []
    file = tmp_path / "core.yaml"
    file.write_text(yaml.safe_dump_all(thing for thing in mine if is_core(thing)))
    run(program("kubernetes-validate", "kubernetes-validate"), "--strict", file)


def test_it_has_the_workers_settings_and_its_own_rights(objects: list[Object]) -> None:
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [settings] = [thing["metadata"]["name"] for thing in objects if thing["kind"] == "ConfigMap"]
    assert container["envFrom"] == [{"configMapRef": {"name": settings}}]
    assert re.fullmatch(r"sdxl-worker:\d+\.\d+\.\d+", container["image"])
    for variable in container["env"]:
        name = variable["name"]
        known = name.lower() in Settings.model_fields or name in ("HOME", "SECRETS_DIR")
        assert known or librdkafka_properties({name: "x"}), name
    assert pod["terminationGracePeriodSeconds"] > STOP_S + 10
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_selectors_meet_its_pods_and_no_others(objects: list[Object]) -> None:
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        one(objects, "Service")["spec"]["selector"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        one(objects, "Deployment")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/name"] == "sdxl-gateway"


def test_metrics_are_on_a_port_that_only_prometheus_reaches(objects: list[Object]) -> None:
    [container] = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["GATEWAY_METRICS_PORT"] == str(ports["metrics"])
    [endpoint] = one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    assert [port["targetPort"] for port in one(objects, "Service")["spec"]["ports"]] == ["http"]
    for rule in one(objects, "NetworkPolicy")["spec"]["ingress"]:
        if any(port["port"] == "metrics" for port in rule["ports"]):
            [source] = rule["from"]
            assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


def test_the_user_may_do_what_a_gateway_does_and_no_more(objects: list[Object]) -> None:
    acls = one(objects, "KafkaUser")["spec"]["authorization"]["acls"]
    allowed = {acl["resource"]["name"]: set(acl["operations"]) for acl in acls if acl["resource"]["type"] == "topic"}
    topics = Topics()
    assert allowed == {
        topics.normal.removesuffix("normal"): {"Read", "Write", "Describe"},
        topics.cancellations: {"Write", "Describe"},
        topics.status: {"Read", "Describe"},
    }
