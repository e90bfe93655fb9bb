"""What outside checkers read: every overlay alone and with every component that fits it, as one file each.

python -m tests.kube.renders OUT [--tree CHECKOUT]

`OUT/sites/NAME.yaml` are the renders; `OUT/schemas` the JSON schemas of their kinds, named as kubeconform wants them:
Kubernetes' own out of the package kubernetes-validate, the operators' out of their real CRDs, which `make kube-test`
leaves in the cache. `--tree` renders another checkout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.test_k8s import build
from tests.deploy.tools import ROOT, documents, module
from tests.kube.programs import KUBERNETES_VERSION, programs

OVERLAYS = ("one-gpu", "many-gpus", "spot")
# Made for a fleet; everything else fits one worker, too.
FLEET_ONLY = {"dispatch", "pull-models", "scale-to-zero"}


def sites(k8s: Path) -> dict[str, dict[str, Any]]:
    """The kustomization of each render, by its name; `k8s` is a tree's folder."""
    components = [
        path.parent.name for path in sorted(k8s.glob("*/kustomization.yaml")) if "kind: Component" in path.read_text()
    ]
    found: dict[str, dict[str, Any]] = {}
    for overlay in OVERLAYS:
        fitting = [name for name in components if overlay != "one-gpu" or name not in FLEET_ONLY]
        # The site's files, with secrets and an image that has a registry.
        site: dict[str, Any] = yaml.safe_load((k8s / "site.example/kustomization.yaml").read_text())
        site["resources"] = [f"../overlays/{overlay}"]
        found[overlay] = site
        found[f"{overlay}-with-all"] = site | {"components": [f"../{name}" for name in fitting]}
    return found


def render(tree: Path) -> Iterator[tuple[str, str]]:
    """Name and YAML of each render."""
    with tempfile.TemporaryDirectory(prefix="sites-") as folder:
        k8s = Path(folder) / "k8s"
        shutil.copytree(tree / "k8s", k8s, ignore=shutil.ignore_patterns("site"))
        for name, kustomization in sites(k8s).items():
            shutil.copytree(k8s / "site.example", k8s / name)
            (k8s / name / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
            yield name, build(k8s / name)


def core_schemas() -> dict[str, dict[str, Any]]:
    """File name to strict schema of each of Kubernetes' own kinds, with all definitions, as kubeconform wants them."""
    package = Path(module("kubernetes_validate", "kubernetes-validate").__file__).parent
    minor = KUBERNETES_VERSION.rpartition(".")[0]
    folder = package / f"kubernetes-json-schema/{minor}.0-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    found = {}
    for path in folder.glob("*-v*.json"):
        text = path.read_text().replace("/api/_definitions.json#", "#")
        found[path.name] = json.loads(text) | {"$defs": definitions}
    return found


def crd_schemas(crds: list[Path]) -> dict[str, dict[str, Any]]:
    """File name to JSON schema of each kind and version. Fields that a CRD does not know are refused."""
    found = {}
    for path in crds:
        for crd in documents(path.read_text()):
            names, group = crd["spec"]["names"], crd["spec"]["group"]
            for version in crd["spec"]["versions"]:
                schema = _closed(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {"metadata": {"type": "object"}}
                found[f"{names['kind'].lower()}-{group}-{version['name']}.json"] = schema
    return found


def _closed(schema: Any) -> Any:
    """An API server prunes unknown fields, or with strict validation refuses them; JSON schemas allow them."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if closed.pop("x-kubernetes-int-or-string", False):
        closed |= {"type": ["integer", "string"]}
        closed.pop("anyOf", None)
    return closed


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(prog="python -m tests.kube.renders")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tree", type=Path, default=ROOT)
    options = parser.parse_args()
    for name in ("sites", "schemas"):
        (options.out / name).mkdir(parents=True, exist_ok=True)
    kinds = set()
    for name, text in render(options.tree):
        (options.out / f"sites/{name}.yaml").write_text(text)
        kinds |= {thing["kind"].lower() for thing in documents(text)}
    for name, schema in (core_schemas() | crd_schemas(programs().crds)).items():
        if name.partition("-")[0] in kinds:
            (options.out / "schemas" / name).write_text(json.dumps(schema))


if __name__ == "__main__":
    main()
