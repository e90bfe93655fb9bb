"""What kube-score and checkov rightly ask of every pod, of whatever overlay or component (docs/security.md).

`tests/kube/renders.py` renders what they read; a new component is in it by itself.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_k8s import K8S, Object, build, errors, is_core
from tests.deploy.tools import documents, program, run
from tests.kube.renders import core_schemas, render, sites

SITES = tuple(sites(K8S))
every_site = pytest.mark.parametrize("site", SITES)
DIGEST = f"sha256:{'0' * 64}"


@cache
def rendered() -> dict[str, list[Object]]:
    return {name: documents(text) for name, text in render(K8S.parent)}


def objects(site: str, kind: str) -> list[Object]:
    return [thing for thing in rendered()[site] if thing["kind"] == kind]


def templates(site: str) -> dict[str, Object]:
    """Name to template of everything that makes pods."""
    makers = (*objects(site, "Deployment"), *objects(site, "Job"))
    return {maker["metadata"]["name"]: maker["spec"]["template"] for maker in makers}


def containers(site: str) -> list[Object]:
    pods = [template["spec"] for template in templates(site).values()]
    return [one for pod in pods for one in (*pod.get("initContainers", ()), *pod["containers"])]


def selects(selector: Object, template: Object) -> bool:
    chosen: dict[str, str] = selector["matchLabels"]
    return bool(chosen.items() <= template["metadata"]["labels"].items())


def test_the_largest_site_has_every_component() -> None:
    used = {Path(path).name for path in sites(K8S)["many-gpus-with-all"]["components"]}
    assert used == {path.parent.name for path in K8S.glob("*/kustomization.yaml")} - {"base", "kafka", "site.example"}


@every_site
def test_all_of_it_is_valid(site: str, tmp_path: Path) -> None:
    file = tmp_path / "core.yaml"
    file.write_text(yaml.safe_dump_all(thing for thing in rendered()[site] if is_core(thing)))
    run(program("kubernetes-validate", "kubernetes-validate"), "--strict", file)
    for thing in rendered()[site]:
        assert is_core(thing) or errors(thing) == [], thing["metadata"]["name"]


@every_site
def test_nothing_is_there_twice(site: str) -> None:
    names = [
        (thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"]) for thing in rendered()[site]
    ]
    assert len(names) == len(set(names))


@every_site
def test_every_container_is_bounded_and_restricted(site: str) -> None:
    for one in containers(site):
        given = one["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= given["requests"].keys(), one["name"]
        assert {"memory", "ephemeral-storage"} <= given["limits"].keys(), one["name"]
        context = one["securityContext"]
        assert context["runAsNonRoot"] is context["readOnlyRootFilesystem"] is True, one["name"]
        assert context["allowPrivilegeEscalation"] is False, one["name"]
        assert context["capabilities"] == {"drop": ["ALL"]}, one["name"]


@every_site
def test_no_secret_is_in_an_environment_and_no_pod_has_a_token(site: str) -> None:
    for one in containers(site):
        assert "secretKeyRef" not in str(one), one["name"]
        assert "secretRef" not in str(one), one["name"]
    for name, template in templates(site).items():
        assert template["spec"]["automountServiceAccountToken"] is False, name


@every_site
def test_every_pod_has_a_network_policy_in_both_directions(site: str) -> None:
    policies = [thing["spec"] for thing in objects(site, "NetworkPolicy")]
    for name, template in templates(site).items():
        [policy] = [policy for policy in policies if selects(policy["podSelector"], template)]
        assert policy["policyTypes"] == ["Ingress", "Egress"], name


@every_site
def test_every_deployment_has_probes_and_a_disruption_budget(site: str) -> None:
    budgets = [thing["spec"] for thing in objects(site, "PodDisruptionBudget")]
    for deployment in objects(site, "Deployment"):
        template = deployment["spec"]["template"]
        [budget] = [budget for budget in budgets if selects(budget["selector"], template)]
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        [container] = template["spec"]["containers"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


@every_site
def test_several_of_a_kind_are_spread_over_hosts(site: str) -> None:
    """A worker has a GPU to itself, and the machine with eight of them is a good place for eight workers."""
    several = [one for one in objects(site, "Deployment") if one["spec"].get("replicas", 1) > 1]
    assert len(several) == (0 if "with-all" not in site else 2 if site.startswith("one-gpu") else 3)
    for deployment in several:
        template = deployment["spec"]["template"]
        spread = {one["topologyKey"]: one for one in template["spec"]["topologySpreadConstraints"]}
        assert selects(spread["kubernetes.io/hostname"]["labelSelector"], template)


@every_site
def test_only_workers_have_the_workers_cloud_role(site: str) -> None:
    """The role may write pictures and manifests; a gateway's reads manifests, and the others need none."""
    accounts = {name: template["spec"].get("serviceAccountName") for name, template in templates(site).items()}
    accounts.pop("sdxl-pull-models", None)
    assert accounts == {name: name for name in accounts}
    made = {thing["metadata"]["name"]: thing for thing in objects(site, "ServiceAccount")}
    assert made.keys() == accounts.keys()
    assert all(account["automountServiceAccountToken"] is False for account in made.values())


def test_a_site_may_name_its_image_by_digest(tmp_path: Path) -> None:
    k8s = tmp_path / "k8s"
    shutil.copytree(K8S, k8s)
    kustomization = sites(k8s)["many-gpus-with-all"]
    [image] = kustomization["images"]
    commented = [
        line for line in (K8S / "site.example/kustomization.yaml").read_text().splitlines() if "digest:" in line
    ]
    [name, _] = commented[0].strip().removeprefix("# ").split(": ", 1)
    image[name] = DIGEST
    shutil.copytree(k8s / "site.example", k8s / "site")
    (k8s / "site/kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    things = documents(build(k8s / "site"))
    pods: list[Any] = [thing["spec"]["template"]["spec"] for thing in things if thing["kind"] in ("Deployment", "Job")]
    assert len(pods) == 5
    for pod in pods:
        for one in pod["containers"]:
            assert one["image"].startswith("registry.example.com/sdxl-worker"), one["name"]
            assert one["image"].endswith(f"@{DIGEST}"), one["name"]


def test_the_checkers_get_whole_schemas() -> None:
    """kubeconform resolves no reference into another file, and says then that it found no schema."""
    deployment = core_schemas()["deployment-apps-v1.json"]
    reference = deployment["properties"]["spec"]["$ref"]
    assert reference.removeprefix("#/$defs/") in deployment["$defs"]
