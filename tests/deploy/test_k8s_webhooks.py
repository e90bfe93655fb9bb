"""The components for webhooks and dashboards, rendered beside an overlay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_k8s import K8S, build, errors, is_core
from tests.deploy.tools import ROOT, documents, program, run
from worker.settings import Settings, librdkafka_properties
from worker.topics import Topics

Object = dict[str, Any]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    copy = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(K8S, copy)
    site = copy / "with-components"
    site.mkdir()
    kustomization = {"resources": ["../overlays/one-gpu"], "components": ["../webhooks", "../dashboards"]}
    (site / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return documents(build(site))


def one(objects: list[Object], kind: str, name: str = "sdxl-webhooks") -> Object:
    [found] = [thing for thing in objects if thing["kind"] == kind and thing["metadata"]["name"] == name]
    return found


def test_it_is_valid(objects: list[Object], tmp_path: Path) -> None:
    mine = [thing for thing in objects if thing["metadata"]["name"] == "sdxl-webhooks"]
    assert {thing["kind"] for thing in mine} == {
        "Deployment", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "ServiceAccount", "KafkaUser",
    }  # fmt: skip
    assert errors(one(objects, "KafkaUser")) == []
    assert errors(one(objects, "PodMonitor")) == []
    file = tmp_path / "core.yaml"
    file.write_text(yaml.safe_dump_all(thing for thing in mine if is_core(thing)))
    run(program("kubernetes-validate", "kubernetes-validate"), "--strict", file)


def test_it_runs_the_verb_with_known_settings_and_restricted(objects: list[Object]) -> None:
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"] == ["webhooks"]
    for variable in container["env"]:
        name = variable["name"]
        known = name.lower() in Settings.model_fields or name in ("HOME", "SECRETS_DIR")
        assert known or librdkafka_properties({name: "x"}), name
    assert pod["terminationGracePeriodSeconds"] > Settings.model_fields["webhook_timeout_s"].default + 5
    assert pod["serviceAccountName"] == "sdxl-webhooks", "not the workers', which may write pictures"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_no_secret_is_in_the_environment(objects: list[Object]) -> None:
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    assert not any("secretKeyRef" in str(entry) for entry in pod["containers"][0]["env"])
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
    files = [item["path"] for source in volume["projected"]["sources"] for item in source["secret"].get("items", ())]
    assert files == ["KAFKA_SASL_PASSWORD"]


def test_selectors_meet_its_pods_and_no_others(objects: list[Object]) -> None:
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        one(objects, "PodMonitor")["spec"]["selector"]["matchLabels"],
        one(objects, "Deployment")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/name"] == "sdxl-webhooks"


def test_the_user_may_read_results_and_nothing_else(objects: list[Object]) -> None:
    acls = one(objects, "KafkaUser")["spec"]["authorization"]["acls"]
    allowed = {
        (acl["resource"]["type"], acl["resource"]["name"], acl["resource"]["patternType"]): set(acl["operations"])
        for acl in acls
    }
    reads = {"Read", "Describe"}
    assert allowed == {
        ("topic", Topics().completed, "literal"): reads,
        ("topic", Topics().failed, "literal"): reads,
        ("group", Settings.model_fields["webhook_group_id"].default, "literal"): reads,
    }


def test_grafanas_sidecar_finds_the_dashboards(objects: list[Object]) -> None:
    found = one(objects, "ConfigMap", "sdxl-worker-dashboards")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
    assert found["data"].keys() == {file.name for file in files}
    for file in files:
        assert json.loads(found["data"][file.name]) == json.loads(file.read_text())
    # What the API server stores of one object.
    assert sum(len(text) for text in found["data"].values()) < 900_000
