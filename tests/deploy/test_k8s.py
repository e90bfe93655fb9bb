"""The Kubernetes files: rendered by kustomize, validated against schemas, and compared with the worker's own values.

Core kinds are validated by kubernetes-validate against Kubernetes' own schemas. The schemas of the operators' kinds
(schemas/*.json) are written by hand for the fields used here, because no registry has their CRDs as a package.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import ROOT, documents, load, module, program, run
from worker import kafka_config, poll_waits, runtime
from worker.job import Lane
from worker.settings import Settings, librdkafka_properties
from worker.topics import Topics, layouts

K8S = ROOT / "k8s"
BASE = K8S / "base"
KAFKA = K8S / "kafka"
OVERLAYS = ("overlays/one-gpu", "overlays/many-gpus", "overlays/spot")
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")}

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
Object = dict[str, Any]


def build(folder: Path) -> str:
    """What kustomize makes of a folder."""
    kubectl = shutil.which("kubectl")
    if kubectl is not None:
        return run(kubectl, "kustomize", folder)
    return run(program("kustomize", "kubectl or kustomize"), "build", folder)


@cache
def rendered_text(overlay: str) -> str:
    return build(K8S / overlay)


@cache
def _rendered(overlay: str) -> list[Object]:
    return documents(rendered_text(overlay))


def rendered(overlay: str) -> list[Object]:
    return copy.deepcopy(_rendered(overlay))


def only(objects: list[Object], kind: str) -> Object:
    [found] = [thing for thing in objects if thing["kind"] == kind]
    return found


def is_core(thing: Object) -> bool:
    group = thing["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


def errors(thing: Object) -> list[str]:
    """What is wrong with an object of an operator's kind."""
    jsonschema = module("jsonschema", "check-jsonschema")
    if thing["kind"] not in SCHEMAS:
        return [f"{thing['kind']} has no schema"]
    validator = jsonschema.Draft202012Validator(SCHEMAS[thing["kind"]])
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(thing)]


def pod(overlay: str) -> Object:
    spec: Object = only(rendered(overlay), "Deployment")["spec"]["template"]["spec"]
    return spec


def container(overlay: str) -> Object:
    [worker] = pod(overlay)["containers"]
    found: Object = worker
    return found


def settings(overlay: str) -> dict[str, str]:
    data: dict[str, str] = only(rendered(overlay), "ConfigMap")["data"]
    return data


class TestFiles:
    def test_every_file_is_named_by_a_kustomization(self) -> None:
        for folder in {path.parent for path in K8S.rglob("kustomization.yaml")}:
            text = (folder / "kustomization.yaml").read_text()
            for path in folder.glob("*.*"):
                assert path.name == "kustomization.yaml" or path.name in text, f"{path} is used by nobody"

    def test_every_named_path_exists(self) -> None:
        for kustomization in K8S.rglob("kustomization.yaml"):
            content = load(kustomization)
            named = [*content.get("resources", ()), *content.get("configurations", ())]
            named += [patch["path"] for patch in content.get("patches", ()) if "path" in patch]
            generators = [*content.get("configMapGenerator", ()), *content.get("secretGenerator", ())]
            named += [env for generator in generators for env in generator.get("envs", ())]
            missing = [name for name in named if not (kustomization.parent / name).exists()]
            assert not missing, f"{kustomization} names {missing}"

    def test_no_secret_is_in_any_file(self) -> None:
        for path in K8S.rglob("*"):
            if path.is_file() and "site" not in path.parts:
                text = path.read_text()
                assert not re.search(r"(AKIA|ASIA)[A-Z0-9]{16}|hf_[A-Za-z0-9]{20}|BEGIN [A-Z ]*PRIVATE KEY", text), path
                assert "kind: Secret\n" not in text, path

    def test_each_operators_object_has_a_valid_file_without_kustomize_too(self) -> None:
        for path in sorted([*BASE.glob("*.yaml"), *KAFKA.glob("*.yaml")]):
            if path.name in ("kustomization.yaml", "name-references.yaml"):
                continue
            for thing in documents(path.read_text()):
                assert is_core(thing) or errors(thing) == [], f"{path}: {errors(thing)}"


@every_overlay
class TestSchemas:
    def test_core_kinds_are_valid(self, overlay: str, tmp_path: Path) -> None:
        validate = program("kubernetes-validate", "kubernetes-validate")
        file = tmp_path / "core.yaml"
        file.write_text(yaml.safe_dump_all(thing for thing in rendered(overlay) if is_core(thing)))
        run(validate, "--strict", file)

    def test_operators_kinds_are_valid(self, overlay: str) -> None:
        checked = [thing for thing in rendered(overlay) if not is_core(thing)]
        assert len(checked) >= 11
        for thing in checked:
            assert errors(thing) == []


class TestTheChecksThemselves:
    """A validator that passes everything would pass these, too."""

    def test_strict_validation_finds_a_misspelt_field(self, tmp_path: Path) -> None:
        validate = program("kubernetes-validate", "kubernetes-validate")
        broken = copy.deepcopy(load(BASE / "pod-disruption-budget.yaml"))
        broken["spec"]["maxUnavailabel"] = broken["spec"].pop("maxUnavailable")
        file = tmp_path / "broken.yaml"
        file.write_text(yaml.safe_dump(broken))
        with pytest.raises(AssertionError, match="maxUnavailabel"):
            run(validate, "--strict", file)

    @pytest.mark.parametrize(
        ("file", "change"),
        [
            ("scaled-object.yaml", lambda o: o["spec"].update(maxReplicas=3)),
            ("scaled-object.yaml", lambda o: o["spec"]["triggers"][0]["metadata"].update(offsetResetPolicy="first")),
            ("scaled-object.yaml", lambda o: o["spec"]["triggers"][0]["metadata"].update(excludePersistentLag=False)),
            ("scaled-object.yaml", lambda o: o["spec"].pop("triggers")),
            ("../kafka/user.yaml", lambda o: o["spec"]["authorization"]["acls"][0].update(operations=["Reed"])),
            ("../kafka/user.yaml", lambda o: o.update(apiVersion="kafka.strimzi.io/v1beta2")),
            ("pod-monitor.yaml", lambda o: o["spec"]["podMetricsEndpoints"][0].update(interval="soon")),
            ("prometheus-rule.yaml", lambda o: o["spec"]["groups"][0]["rules"][0].pop("expr")),
            ("trigger-authentication.yaml", lambda o: o["spec"]["secretTargetRef"][0].pop("key")),
        ],
    )
    def test_each_schema_finds_a_mistake(self, file: str, change: Any) -> None:
        thing = load(BASE / file)
        assert errors(thing) == []
        change(thing)
        assert errors(thing) != []


@every_overlay
class TestPods:
    def test_the_grace_period_is_longer_than_the_drain(self, overlay: str) -> None:
        config = Settings(**{name.lower(): value for name, value in settings(overlay).items()})  # type: ignore[arg-type]
        # Worker.drain: jobs end, what is left is handed back and committed; then leaving the group revokes, which
        # waits and commits once more. Loops end at once, but for one that is in a call to S3 or to the broker.
        handing_back = 2 * poll_waits.LAST_COMMIT_S
        usual = config.drain_timeout_s + handing_back
        worst = usual + config.revoke_timeout_s + handing_back
        grace = pod(overlay)["terminationGracePeriodSeconds"]
        if overlay == "overlays/spot":
            # The provider's notice is all there is; whatever is cut off is repeated by the next owner, never lost.
            assert grace > usual
            assert grace > worst - handing_back
        else:
            assert grace > worst + runtime.JOIN_S

    def test_probes_wait_for_the_model_and_do_not_kill_for_s3(self, overlay: str) -> None:
        probes = container(overlay)
        startup = probes["startupProbe"]
        assert startup["httpGet"]["path"] == "/health", "an outage of Kafka or S3 must not kill a pod that starts"
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 600
        assert probes["livenessProbe"]["httpGet"]["path"] == "/health"
        assert probes["readinessProbe"]["httpGet"]["path"] == "/ready"
        [port] = probes["ports"]
        assert port == {"containerPort": Settings.model_fields["http_port"].default, "name": "http"}

    def test_the_pod_security_is_restricted(self, overlay: str) -> None:
        spec = pod(overlay)
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for one in (*spec["initContainers"], *spec["containers"]):
            context = one["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
        namespace = only(rendered(overlay), "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"

    def test_it_writes_only_where_a_volume_is(self, overlay: str) -> None:
        mounts = {mount["mountPath"]: mount for mount in container(overlay)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod(overlay)["volumes"]}
        assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == {"/tmp", "/dev/shm"}
        assert all("emptyDir" in volumes[mounts[path]["name"]] for path in ("/tmp", "/dev/shm"))

    def test_weights_are_pulled_before_and_never_during_the_run(self, overlay: str) -> None:
        [init] = pod(overlay)["initContainers"]
        environment = {entry["name"]: entry.get("value") for entry in container(overlay)["env"]}
        before = {entry["name"]: entry.get("value") for entry in init["env"]}
        assert init["args"] == ["models", "pull"]
        assert init["image"] == container(overlay)["image"]
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert "HF_HUB_OFFLINE" not in before
        assert environment["HF_HOME"] == before["HF_HOME"]
        assert init["envFrom"] == container(overlay)["envFrom"]

    def test_one_gpu_each_and_no_surge(self, overlay: str) -> None:
        deployment = only(rendered(overlay), "Deployment")
        assert container(overlay)["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod(overlay)["tolerations"]

    def test_the_worker_is_named_after_its_pod(self, overlay: str) -> None:
        [name] = [entry for entry in container(overlay)["env"] if entry["name"] == "WORKER_ID"]
        assert name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}

    def test_every_setting_is_one_of_the_workers(self, overlay: str) -> None:
        known = {name.upper() for name in Settings.model_fields}
        for name in settings(overlay):
            assert name in known or librdkafka_properties({name: "x"}), name

    def test_selectors_meet_their_pods(self, overlay: str) -> None:
        objects = rendered(overlay)
        labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
        selectors = [
            only(objects, "Service")["spec"]["selector"],
            only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            only(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
            only(objects, "PodMonitor")["spec"]["selector"]["matchLabels"],
        ]
        for selector in selectors:
            assert selector.items() <= labels
        for thing in objects:
            namespace = "kafka" if thing["kind"].startswith("Kafka") else "image-generation"
            assert thing["metadata"].get("namespace") == (None if thing["kind"] == "Namespace" else namespace)

    def test_every_config_map_and_secret_that_is_named_is_made_by_somebody(self, overlay: str) -> None:
        made = {thing["metadata"]["name"] for thing in rendered(overlay) if thing["kind"] == "ConfigMap"}
        used = set(re.findall(r"sdxl-worker-[a-z0-9]{10}\b", rendered_text(overlay)))
        assert used == made
        by_others = {"sdxl-worker", "kafka-cluster-ca-cert"}
        by_site = {g["name"] for g in load(K8S / "site.example/kustomization.yaml")["secretGenerator"]}
        secrets = set(re.findall(r"secretName: (\S+)", rendered_text(overlay)))
        for volume in pod(overlay)["volumes"]:
            secrets |= {source["secret"]["name"] for source in volume.get("projected", {}).get("sources", ())}
        assert secrets == by_others | by_site

    def test_no_secret_is_in_an_environment(self, overlay: str) -> None:
        """An environment is shown by `kubectl describe`, inherited, and printed by crash reports."""
        assert not re.findall(r"secretKeyRef|secretRef", rendered_text(overlay))


class TestKafka:
    @pytest.mark.parametrize(("overlay", "partitions"), [("overlays/one-gpu", 12), ("overlays/many-gpus", 96)])
    def test_topics_are_those_that_the_worker_would_create(self, overlay: str, partitions: int) -> None:
        found = {t["metadata"]["name"]: t["spec"] for t in rendered(overlay) if t["kind"] == "KafkaTopic"}
        expected = layouts(Topics(), partitions)
        assert found.keys() == expected.keys()
        for name, layout in expected.items():
            config = {key: str(value) for key, value in found[name]["config"].items()}
            assert config == {**layout.config, "min.insync.replicas": "2"}, name
            assert (found[name]["partitions"], found[name]["replicas"]) == (layout.partitions, 3), name

    def test_the_user_may_do_all_that_a_worker_does_and_no_more(self) -> None:
        acls = load(KAFKA / "user.yaml")["spec"]["authorization"]["acls"]

        def allowed(kind: str, name: str) -> set[str]:
            found: set[str] = set()
            for acl in acls:
                resource = acl["resource"]
                prefix = resource["patternType"] == "prefix"
                if resource["type"] == kind and (
                    name.startswith(resource["name"]) if prefix else name == resource["name"]
                ):
                    found |= set(acl["operations"])
            return found

        topics = Topics()
        reads, writes = {"Read", "Describe"}, {"Write", "Describe"}
        for name in (*topics.requests, topics.cancellations):
            assert allowed("topic", name) == reads
        for name in (topics.completed, topics.failed, topics.status, topics.dead_letter):
            assert allowed("topic", name) == writes
        config = Settings(worker_id="sdxl-worker-6f7d-x2x")
        assert allowed("group", config.kafka_group_id) == reads
        assert allowed("group", kafka_config.reader_config(config)["group.id"]) == reads
        assert allowed("transactionalId", kafka_config.transactional_id(config)) == writes
        assert {acl["resource"]["type"] for acl in acls} == {"topic", "group", "transactionalId"}


@pytest.mark.parametrize("overlay", [overlay for overlay in OVERLAYS if not overlay.endswith("one-gpu")])
class TestScaling:
    def test_there_is_one_trigger_per_request_topic(self, overlay: str) -> None:
        triggers = only(rendered(overlay), "ScaledObject")["spec"]["triggers"]
        assert [trigger["metadata"]["topic"] for trigger in triggers] == list(Topics().requests)
        config = kafka_config.consumer_config(Settings(), Lane.URGENT)
        for trigger in triggers:
            metadata = trigger["metadata"]
            assert metadata["consumerGroup"] == config["group.id"]
            # Where there is no committed offset, the worker begins at the beginning (`intake.positions`).
            assert metadata["offsetResetPolicy"] == "earliest"
            assert metadata["excludePersistentLag"] == "false"
            assert metadata["bootstrapServers"] == settings(overlay)["KAFKA_BOOTSTRAP_SERVERS"]

    def test_lags_add_up_and_it_goes_down_slowly(self, overlay: str) -> None:
        spec = only(rendered(overlay), "ScaledObject")["spec"]
        names = [trigger["name"] for trigger in spec["triggers"]]
        assert spec["advanced"]["scalingModifiers"]["formula"] == " + ".join(names)
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        down, up = behavior["scaleDown"], behavior["scaleUp"]
        assert down["stabilizationWindowSeconds"] >= 10 * up["stabilizationWindowSeconds"]
        assert all(policy["periodSeconds"] >= 300 for policy in down["policies"])

    def test_no_more_workers_than_partitions(self, overlay: str) -> None:
        objects = rendered(overlay)
        counts = {t["metadata"]["name"]: t["spec"]["partitions"] for t in objects if t["kind"] == "KafkaTopic"}
        [partitions] = {counts[name] for name in Topics().requests}
        spec = only(objects, "ScaledObject")["spec"]
        assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"] <= partitions

    def test_the_deployment_leaves_the_count_to_keda(self, overlay: str) -> None:
        deployment = only(rendered(overlay), "Deployment")
        scaled = only(rendered(overlay), "ScaledObject")
        assert "replicas" not in deployment["spec"]
        assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_one_gpu_has_one_worker_and_no_autoscaler() -> None:
    objects = rendered("overlays/one-gpu")
    assert only(objects, "Deployment")["spec"]["replicas"] == 1
    assert not [thing for thing in objects if thing["kind"] in ("ScaledObject", "TriggerAuthentication")]


def test_egress_reaches_what_the_worker_needs_and_not_the_metadata_service() -> None:
    spec = load(BASE / "network-policy.yaml")["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    kafka = int(load_env(BASE / "worker.env")["KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2])
    found = {
        (to.get("ipBlock", {}).get("cidr", "pods"), port["port"])
        for rule in spec["egress"]
        for to in rule["to"]
        for port in rule["ports"]
    }
    assert found == {
        ("pods", 53),
        ("169.254.20.10/32", 53),
        ("pods", kafka),
        ("169.254.170.23/32", 80),
        ("0.0.0.0/0", 443),
    }
    [everywhere] = [to["ipBlock"] for rule in spec["egress"] for to in rule["to"] if "except" in to.get("ipBlock", {})]
    assert everywhere["except"] == ["169.254.0.0/16"]


def test_kafka_is_named_so_that_every_namespace_resolves_it() -> None:
    host = load_env(BASE / "worker.env")["KAFKA_BOOTSTRAP_SERVERS"].partition(":")[0]
    assert host.split(".")[1:] == [load(KAFKA / "kustomization.yaml")["namespace"], "svc"]


def test_the_prometheus_operator_finds_what_is_monitored() -> None:
    """kube-prometheus-stack selects by this label."""
    monitors = [thing for thing in rendered("overlays/one-gpu") if thing["apiVersion"].startswith("monitoring.")]
    assert {thing["kind"] for thing in monitors} == {"PodMonitor", "PrometheusRule"}
    for thing in monitors:
        assert thing["metadata"]["labels"]["release"] == "kube-prometheus-stack"


@pytest.mark.parametrize(("before", "after"), [("one-gpu", "many-gpus"), ("many-gpus", "spot"), ("spot", "one-gpu")])
def test_one_overlay_can_be_applied_over_another(before: str, after: str) -> None:
    """An API server refuses to change these fields."""

    def fixed(overlay: str) -> dict[tuple[str, str], Any]:
        found = {}
        for thing in rendered(f"overlays/{overlay}"):
            spec, name = thing.get("spec", {}), (thing["kind"], thing["metadata"]["name"])
            if thing["kind"] == "PersistentVolumeClaim":
                found[name] = (spec["accessModes"], spec.get("storageClassName"), spec.get("volumeName"))
            elif thing["kind"] == "Deployment":
                found[name] = spec["selector"]
        return found

    old, new = fixed(before), fixed(after)
    assert ("Deployment", "sdxl-worker") in old.keys() & new.keys()
    assert all(old[name] == new[name] for name in old.keys() & new.keys())


def load_env(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
