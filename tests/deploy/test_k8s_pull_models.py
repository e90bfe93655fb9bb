"""The Job that pulls weights, and the Kafka users of those around the workers: components beside an overlay."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_k8s import K8S, build, errors, is_core
from tests.deploy.tools import ROOT, documents, program, run

Object = dict[str, Any]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    copy = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(K8S, copy)
    site = copy / "with-components"
    site.mkdir()
    kustomization = {"resources": ["../overlays/many-gpus"], "components": ["../pull-models", "../clients"]}
    (site / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return documents(build(site))


def one(objects: list[Object], kind: str, name: str) -> Object:
    [found] = [thing for thing in objects if thing["kind"] == kind and thing["metadata"]["name"] == name]
    return found


def test_one_job_pulls_and_no_worker_does(objects: list[Object], tmp_path: Path) -> None:
    job = one(objects, "Job", "sdxl-pull-models")
    worker = one(objects, "Deployment", "sdxl-worker")["spec"]["template"]["spec"]
    assert "initContainers" not in worker
    pod = job["spec"]["template"]["spec"]
    [puller], [runner] = pod["containers"], worker["containers"]
    assert puller["args"] == ["models", "pull"]
    assert puller["image"] == runner["image"]
    assert puller["envFrom"] == runner["envFrom"]
    places = {entry["name"]: entry.get("value") for entry in puller["env"]}
    assert places["HF_HOME"] == {entry["name"]: entry.get("value") for entry in runner["env"]}["HF_HOME"]
    assert "HF_HUB_OFFLINE" not in places
    claims = [
        v["persistentVolumeClaim"]["claimName"]
        for s in (pod, worker)
        for v in s["volumes"]
        if "persistentVolumeClaim" in v
    ]
    assert len(set(claims)) == 1
    assert puller["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    run(program("kubernetes-validate", "kubernetes-validate"), "--strict", file)


def test_every_pod_has_one_network_policy(objects: list[Object]) -> None:
    policies = [thing for thing in objects if thing["kind"] == "NetworkPolicy"]
    for thing in objects:
        if thing["kind"] in ("Deployment", "Job"):
            labels = thing["spec"]["template"]["metadata"]["labels"].items()
            [policy] = [p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels]
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            assert policy["metadata"]["namespace"] == thing["metadata"]["namespace"]


def test_the_job_reaches_the_hub_and_names_and_nothing_reaches_it(objects: list[Object]) -> None:
    spec = one(objects, "NetworkPolicy", "sdxl-pull-models")["spec"]
    assert "ingress" not in spec
    assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == {53, 443}


def test_every_container_says_how_much_of_the_nodes_disk_it_uses(objects: list[Object]) -> None:
    for thing in objects:
        if thing["kind"] in ("Deployment", "Job"):
            pod = thing["spec"]["template"]["spec"]
            for container in (*pod.get("initContainers", ()), *pod["containers"]):
                resources = container["resources"]
                assert {"ephemeral-storage"} <= resources["requests"].keys() & resources["limits"].keys()


def test_the_clients_users_are_valid(objects: list[Object]) -> None:
    users = [thing for thing in objects if thing["kind"] == "KafkaUser"]
    assert {user["metadata"]["name"] for user in users} == {
        "sdxl-worker", "sdxl-producer", "sdxl-notifier", "sdxl-canceller", "sdxl-dispatcher",
    }  # fmt: skip
    for user in users:
        assert errors(user) == []
        assert not is_core(user)
        assert user["metadata"]["namespace"] == "kafka"


def test_without_strimzi_the_same_rights_are_commands() -> None:
    user = yaml.safe_load((K8S / "clients/producer.yaml").read_text())
    spec = importlib.util.spec_from_file_location("acls", ROOT / "deploy/kafka/acls.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    [line] = script.commands(user)
    assert shlex.split(line) == [
        "kafka-acls.sh", "--bootstrap-server", "$KAFKA_BOOTSTRAP_SERVERS", "--add", "--allow-principal",
        "User:sdxl-producer", "--operation", "Write", "--operation", "Describe", "--topic", "generation.requests.",
        "--resource-pattern-type", "prefixed",
    ]  # fmt: skip
