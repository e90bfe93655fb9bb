"""The Kubernetes section of docs/deploy.md, run as it is written, in a copy, with stand-ins for docker and a cluster.

`kubectl` is the real one for all that it can do without a cluster.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_k8s import errors, is_core
from tests.deploy.tools import ROOT, documents, page_commands, program, run

PASSWORD = "secret password"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----"
# What Strimzi's secrets hold, as `-o jsonpath` prints it.
ANSWERS = {
    "{.data.password}": base64.b64encode(PASSWORD.encode()).decode(),
    r"{.data.ca\.crt}": base64.b64encode(CERTIFICATE.encode()).decode(),
}
KUBECTL = """\
#!/bin/bash
set -euo pipefail
case " $* " in
  *" apply -k "*) "$KUBECTL" kustomize "${@: -1}" >> "$APPLIED"; echo --- >> "$APPLIED" ;;
  *" apply -f - "*) cat >> "$APPLIED"; echo --- >> "$APPLIED" ;;
  *" --dry-run=client "*) exec "$KUBECTL" "$@" ;;
  *" get secret sdxl-"*"{.data.password}"*) printf %s "$PASSWORD" ;;
  *" get secret kafka-cluster-ca-cert "*"{.data.ca\\.crt}"*) printf %s "$CERTIFICATE" ;;
  *" wait "*"kafkauser/sdxl-"*|*" wait "*" job/sdxl-pull-models"*) ;;
  *" rollout status deployment/sdxl-dispatch"*) ;;
  *" delete pvc sdxl-models"*|*" delete triggerauthentication/sdxl-worker-kafka scaledobject/sdxl-worker "*) ;;
  *) echo "unexpected: kubectl $*" >&2; exit 1 ;;
esac
"""


def stand_in(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


class Copy:
    """The deployment files as a person has them, and a shell that notes what the API server would have been given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "copy"
        self._applied = folder / "applied.yaml"
        programs = folder / "bin"
        self._folder.mkdir()
        programs.mkdir()
        for name in ("k8s", "deploy"):
            shutil.copytree(ROOT / name, self._folder / name, ignore=shutil.ignore_patterns("site"))
        stand_in(programs, "docker", "#!/bin/sh\n")
        stand_in(programs, "kubectl", KUBECTL)
        stand_in(programs, "kafka-consumer-groups.sh", "#!/bin/sh\n")  # of a Kafka distribution, which is not here
        self._environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "KUBECTL": program("kubectl", "kubernetes-client"),
            "APPLIED": str(self._applied),
            "PASSWORD": ANSWERS["{.data.password}"],
            "CERTIFICATE": ANSWERS[r"{.data.ca\.crt}"],
        }

    def follow(self, heading: str, page: str = "deploy.md") -> list[dict[str, Any]]:
        """Run the commands of a section; what they applied."""
        self._applied.write_text("")
        for command in page_commands(page, heading):
            done = subprocess.run(
                ["bash", "-c", f"set -o pipefail; {command}"],
                cwd=self._folder,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return documents(self._applied.read_text())

    def choose(self, overlay: str) -> None:
        """What a person edits in the site's kustomization."""
        self.edit("k8s/site/kustomization.yaml", r"\.\./overlays/[a-z-]+", f"../overlays/{overlay}")

    def edit(self, name: str, pattern: str, replacement: str) -> None:
        file = self._folder / name
        text = re.sub(pattern, replacement, file.read_text())
        assert text != file.read_text() or replacement in text
        file.write_text(text)


def validate(things: list[dict[str, Any]], folder: Path) -> None:
    file = folder / "core.yaml"
    file.write_text(yaml.safe_dump_all(thing for thing in things if is_core(thing)))
    run(program("kubernetes-validate", "kubernetes-validate"), "--strict", file)
    assert [errors(thing) for thing in things if not is_core(thing) and errors(thing)] == []


def secrets_named(deployment: dict[str, Any]) -> set[str]:
    pod = deployment["spec"]["template"]["spec"]
    named = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    return named | {
        source["secret"]["name"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
    }


def secrets_in(things: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {thing["metadata"]["name"]: thing for thing in things if thing["kind"] == "Secret"}


def test_after_the_documented_steps_nothing_is_missing(tmp_path: Path) -> None:
    applied = Copy(tmp_path).follow("Kubernetes")
    validate(applied, tmp_path)
    secrets = secrets_in(applied)
    assert {thing["metadata"]["namespace"] for thing in secrets.values()} == {"image-generation"}
    [deployment] = [thing for thing in applied if thing["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert secrets_named(deployment) == secrets.keys()
    assert base64.b64decode(secrets["sdxl-worker"]["data"]["password"]).decode() == PASSWORD
    assert base64.b64decode(secrets["kafka-cluster-ca-cert"]["data"]["ca.crt"]).decode() == CERTIFICATE
    containers = (*pod["initContainers"], *pod["containers"])
    assert {one["image"] for one in containers} == {"registry.example.com/sdxl-worker:0.1.0"}
    claims = {thing["metadata"]["name"] for thing in applied if thing["kind"] == "PersistentVolumeClaim"}
    assert {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v} == claims
    # What a hub or S3 would be given if nobody filled it in: nothing, and no key that looks real.
    hub = next(thing for name, thing in secrets.items() if name.startswith("sdxl-worker-hub-"))
    assert hub["data"] == {"HF_TOKEN": ""}


def test_one_overlay_follows_another_and_the_gateway_comes_beside_it(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    copy.follow("Kubernetes")
    copy.choose("many-gpus")
    kinds = {thing["kind"] for thing in copy.follow("From `one-gpu` to `many-gpus` or `spot`")}
    assert {"ScaledObject", "TriggerAuthentication"} < kinds
    copy.choose("one-gpu")
    kinds = {thing["kind"] for thing in copy.follow("From `many-gpus` or `spot` to `one-gpu`")}
    assert not {"ScaledObject", "TriggerAuthentication"} & kinds
    applied = copy.follow("The gateway")
    validate(applied, tmp_path)
    [gateway] = [t for t in applied if t["kind"] == "Deployment" and t["metadata"]["name"] == "sdxl-gateway"]
    assert secrets_named(gateway) <= secrets_in(applied).keys() | {"kafka-cluster-ca-cert"}
    [image] = [one["image"] for one in gateway["spec"]["template"]["spec"]["containers"]]
    assert image == "registry.example.com/sdxl-worker:0.1.0"


@pytest.mark.parametrize(
    ("components", "page", "heading", "name"),
    [
        ("../webhooks", "deploy.md", "Webhooks", "sdxl-webhooks"),
        ("../clients, ../dispatch", "dispatch.md", "How to turn it on", "sdxl-dispatch"),
        ("../pull-models", "deploy.md", "One Job for the weights", "sdxl-pull-models"),
    ],
)
def test_a_component_needs_no_more_than_its_section_says(
    components: str, page: str, heading: str, name: str, tmp_path: Path
) -> None:
    copy = Copy(tmp_path)
    before = copy.follow("Kubernetes")
    copy.choose("many-gpus")
    copy.edit("k8s/site/kustomization.yaml", r"# components: \[.*", f"components: [{components}]")
    applied = copy.follow(heading, page)
    validate(applied, tmp_path)
    [maker] = [t for t in applied if t["kind"] in ("Deployment", "Job") and t["metadata"]["name"] == name]
    assert secrets_named(maker) <= secrets_in([*before, *applied]).keys()
    [image] = [one["image"] for one in maker["spec"]["template"]["spec"]["containers"]]
    assert image == "registry.example.com/sdxl-worker:0.1.0"


def test_with_scale_to_zero_there_is_no_worker_while_nothing_waits(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    copy.follow("Kubernetes")
    copy.choose("many-gpus")
    copy.edit(
        "k8s/site/kustomization.yaml", r"# components: \[../gateway\]", "components: [../gateway, ../scale-to-zero]"
    )
    applied = copy.follow("From `one-gpu` to `many-gpus` or `spot`")
    validate(applied, tmp_path)
    [scaled] = [thing["spec"] for thing in applied if thing["kind"] == "ScaledObject"]
    assert scaled["minReplicaCount"] == 0
    # KEDA goes from any number to none at once, so only when the HPA has had the time to go down by itself.
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert scaled["cooldownPeriod"] > behavior["scaleDown"]["stabilizationWindowSeconds"]
