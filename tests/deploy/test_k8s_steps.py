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

from tests.deploy.tools import ROOT, documents, program

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
  *" get secret sdxl-worker "*"{.data.password}"*) printf %s "$PASSWORD" ;;
  *" get secret kafka-cluster-ca-cert "*"{.data.ca\\.crt}"*) printf %s "$CERTIFICATE" ;;
  *" wait "*"kafkauser/sdxl-worker"*) ;;
  *) echo "unexpected: kubectl $*" >&2; exit 1 ;;
esac
"""


def commands() -> list[str]:
    """The commands of the section."""
    text = (ROOT / "docs/deploy.md").read_text()
    section = text[text.index("\n## Kubernetes\n") :]
    section = section[: section.index("\n## ", 5)]
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def stand_in(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


@pytest.fixture
def applied(tmp_path: Path) -> list[dict[str, Any]]:
    """What the API server would have been given."""
    kubectl = program("kubectl", "kubernetes-client")
    copy, programs = tmp_path / "copy", tmp_path / "bin"
    copy.mkdir()
    programs.mkdir()
    for name in ("k8s", "deploy"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("site"))
    stand_in(programs, "docker", "#!/bin/sh\n")
    stand_in(programs, "kubectl", KUBECTL)
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "KUBECTL": kubectl,
        "APPLIED": str(tmp_path / "applied.yaml"),
        "PASSWORD": ANSWERS["{.data.password}"],
        "CERTIFICATE": ANSWERS[r"{.data.ca\.crt}"],
    }
    for command in commands():
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return documents((tmp_path / "applied.yaml").read_text())


def test_after_the_documented_steps_nothing_is_missing(applied: list[dict[str, Any]]) -> None:
    secrets = {thing["metadata"]["name"]: thing for thing in applied if thing["kind"] == "Secret"}
    assert {thing["metadata"]["namespace"] for thing in secrets.values()} == {"image-generation"}
    [deployment] = [thing for thing in applied if thing["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    containers = [*pod["initContainers"], *pod["containers"]]
    named = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    named |= {
        entry["valueFrom"]["secretKeyRef"]["name"]
        for one in containers
        for entry in one["env"]
        if "secretKeyRef" in entry.get("valueFrom", {})
    }
    assert named == secrets.keys()
    assert base64.b64decode(secrets["sdxl-worker"]["data"]["password"]).decode() == PASSWORD
    assert base64.b64decode(secrets["kafka-cluster-ca-cert"]["data"]["ca.crt"]).decode() == CERTIFICATE
    assert {one["image"] for one in containers} == {"registry.example.com/sdxl-worker:0.1.0"}
    claims = {thing["metadata"]["name"] for thing in applied if thing["kind"] == "PersistentVolumeClaim"}
    assert {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v} == claims
    # What a hub or S3 would be given if nobody filled it in: nothing, and no key that looks real.
    hub = next(thing for name, thing in secrets.items() if name.startswith("sdxl-worker-hub-"))
    assert hub["data"] == {"HF_TOKEN": ""}
