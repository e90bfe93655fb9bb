"""The component for dispatchers, rendered beside an overlay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from devtools.autoscaling.policy import WORK_OFFSETS_PER_REQUEST
from tests.deploy.test_k8s import K8S, Object, build, errors, is_core
from tests.deploy.tools import documents, program, run
from worker.settings import Settings
from worker.topics import Topics, layouts

WORK = Topics("", "work")
GROUP = Settings.model_fields["dispatch_group_id"].default
OVERLAYS = ("many-gpus", "spot")


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    copy = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(K8S, copy)
    site = copy / "with-dispatch"
    site.mkdir()
    kustomization = {"resources": [f"../overlays/{request.param}"], "components": ["../clients", "../dispatch"]}
    (site / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return documents(build(site))


def one(objects: list[Object], kind: str, name: str = "sdxl-dispatch") -> Object:
    [found] = [thing for thing in objects if thing["kind"] == kind and thing["metadata"]["name"] == name]
    return found


def test_it_is_valid(objects: list[Object], tmp_path: Path) -> None:
    mine = [thing for thing in objects if thing["metadata"]["name"] == "sdxl-dispatch"]
    assert {thing["kind"] for thing in mine} == {
        "Deployment", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "ServiceAccount",
    }  # fmt: skip
    changed = ("PodMonitor", "KafkaTopic", "KafkaUser", "ScaledObject")
    assert [errors(thing) for thing in objects if thing["kind"] in changed and errors(thing)] == []
    file = tmp_path / "core.yaml"
    file.write_text(yaml.safe_dump_all([*filter(is_core, mine), one(objects, "Deployment", "sdxl-worker")]))
    run(program("kubernetes-validate", "kubernetes-validate"), "--strict", file)


def test_two_run_the_verb_restricted_and_without_a_gpu(objects: list[Object]) -> None:
    spec = one(objects, "Deployment")["spec"]
    assert spec["replicas"] == 2
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"] == ["dispatch"]
    assert "nvidia" not in str(pod)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
    worker = one(objects, "Deployment", "sdxl-worker")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= worker["terminationGracePeriodSeconds"], "they share DRAIN_TIMEOUT_S"
    selectors = (
        one(objects, "NetworkPolicy")["spec"]["podSelector"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"],
        one(objects, "PodMonitor")["spec"]["selector"],
        *(constraint["labelSelector"] for constraint in pod["topologySpreadConstraints"]),
    )
    for selector in selectors:
        assert selector["matchLabels"] == spec["selector"]["matchLabels"]


def test_its_password_is_a_file_and_its_users_own(objects: list[Object]) -> None:
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    env = pod["containers"][0]["env"]
    assert "secretKeyRef" not in str(env)
    given = {variable["name"]: variable.get("value") for variable in env}
    user = one(objects, "KafkaUser", "sdxl-dispatcher")["metadata"]["name"]
    assert given["KAFKA_SASL_USERNAME"] == user
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
    [source] = volume["projected"]["sources"]
    assert source["secret"] == {"name": user, "items": [{"key": "password", "path": "KAFKA_SASL_PASSWORD"}]}


def test_topics_are_those_that_topics_create_makes_and_enough_for_all_workers(objects: list[Object]) -> None:
    names = (*WORK.requests, WORK.workers)
    most = one(objects, "ScaledObject", "sdxl-worker")["spec"]["maxReplicaCount"]
    for name in names:
        spec = one(objects, "KafkaTopic", name)["spec"]
        layout = layouts(WORK, spec["partitions"])[name]
        config = {key: str(value) for key, value in spec["config"].items()}
        assert config == {**layout.config, "min.insync.replicas": "2"}, name
        assert spec["partitions"] == layout.partitions
        assert spec["partitions"] >= most or name == WORK.workers


def test_workers_read_work_and_may(objects: list[Object]) -> None:
    [container] = one(objects, "Deployment", "sdxl-worker")["spec"]["template"]["spec"]["containers"]
    assert {"name": "INPUT", "value": "work"} in container["env"]
    assert len(container["env"]) > 1, "the patch adds, and takes nothing away"
    acls = one(objects, "KafkaUser", "sdxl-worker")["spec"]["authorization"]["acls"]
    allowed = {(acl["resource"]["type"], acl["resource"]["name"]): set(acl["operations"]) for acl in acls}
    assert allowed["topic", "generation.work."] == {"Read", "Describe"}
    assert allowed["topic", WORK.workers] == {"Write", "Describe"}
    assert allowed["group", GROUP] == {"Describe"}, "KEDA asks with this user"


def test_keda_counts_what_waits_before_and_behind_the_dispatchers(objects: list[Object]) -> None:
    spec = one(objects, "ScaledObject", "sdxl-worker")["spec"]
    read = {(trigger["metadata"]["consumerGroup"], trigger["metadata"]["topic"]) for trigger in spec["triggers"]}
    workers = Settings.model_fields["kafka_group_id"].default
    assert read == {(GROUP, topic) for topic in Topics().requests} | {(workers, topic) for topic in WORK.requests}
    names = [trigger["name"] for trigger in spec["triggers"]]
    requests, work = " + ".join(names[:3]), " + ".join(names[3:])
    formula = spec["advanced"]["scalingModifiers"]["formula"]
    assert formula == f"{requests} + ({work}) / {WORK_OFFSETS_PER_REQUEST}", "a request there is two offsets"
    first, *others = ({**t["metadata"], "consumerGroup": "", "topic": ""} for t in spec["triggers"])
    assert all(other == first for other in others), "but for group and topic they are alike"
