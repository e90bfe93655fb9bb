"""The programs and CRDs of `make kube-test`: built or generated once, then taken from the cache.

Kubernetes' control plane, etcd and kubectl are one program (`cluster/`), made of their Go modules. KEDA's programs are
built in a copy of its module, since only there its `replace` applies. The CRDs of KEDA and of the Prometheus operator
lie in their modules; Strimzi's are made by Strimzi's own generator from its API jar.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devtools.local.kafka_jars import CACHE_VARIABLE, PROJECT_ROOT

HERE = Path(__file__).parent
KEDA_MODULE = "github.com/kedacore/keda/v2@v2.21.0"
PROMETHEUS_MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
KUBERNETES_VERSION = "v1.34.4"
STRIMZI_KINDS = {
    "io.strimzi.api.kafka.model.topic.KafkaTopic": "kafkatopics.yaml",
    "io.strimzi.api.kafka.model.user.KafkaUser": "kafkausers.yaml",
}
# Compiling an API server on two busy cores takes long.
BUILD_TIMEOUT_S = 5400.0
_VERSION_PACKAGE = "k8s.io/component-base/version"


class BuildError(RuntimeError):
    """A program could not be built."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths in the cache."""

    folder: Path

    @property
    def cluster(self) -> Path:
        """Its first argument says which part it is: etcd, apiserver, controller-manager or kubectl."""
        return self.folder / "cluster"

    def keda(self, part: str) -> Path:
        """`part` is operator, adapter or webhooks."""
        return self.folder / f"keda-{part}"

    @property
    def keda_config(self) -> Path:
        """KEDA's own manifests."""
        return self.folder / "keda-config"

    @property
    def crds(self) -> list[Path]:
        return sorted((self.folder / "crds").glob("*.yaml"))


def programs() -> Programs:
    """Everything, built if the cache does not have it.

    Raises:
        BuildError: Go or Maven is missing, or a build failed; the message has the end of its output.
    """
    cache = Path(os.environ.get(CACHE_VARIABLE) or PROJECT_ROOT / ".cache").absolute()
    found = Programs(cache / f"kube-test-{_digest()}")
    _once(found.cluster, _build_cluster)
    keda = [found.keda(part) for part in ("operator", "adapter", "webhooks")]
    if not all(path.exists() for path in (*keda, found.keda_config)):
        _build_keda(found)
    _once(found.folder / "crds", lambda target: _collect_crds(found, target))
    return found


def _digest() -> str:
    """A change of any version makes everything anew."""
    digest = hashlib.sha256(f"{KEDA_MODULE} {PROMETHEUS_MODULE} {KUBERNETES_VERSION}".encode())
    for path in (HERE / "cluster/go.mod", HERE / "cluster/go.sum", HERE / "cluster/main.go", HERE / "strimzi.pom.xml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _once(target: Path, make: object) -> None:
    """`make` writes to a path beside `target`, which then gets its name: an interrupted build leaves nothing half."""
    assert callable(make)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    make(partial)
    partial.rename(target)


def _build_cluster(target: Path) -> None:
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    named = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in named.items())])
    _run(
        ["go", "build", "-buildvcs=false", "-p", "1", "-trimpath", "-ldflags", flags, "-o", str(target), "."],
        HERE / "cluster",
    )


def _build_keda(found: Programs) -> None:
    with tempfile.TemporaryDirectory(dir=found.folder, prefix="keda-partial-") as folder:
        source = Path(folder) / "keda"
        shutil.copytree(_module(KEDA_MODULE), source)
        for path in (source, *source.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
        for part in ("operator", "adapter", "webhooks"):
            command = ["go", "build", "-buildvcs=false", "-p", "1", "-trimpath", "-ldflags", "-s -w"]
            _once(
                found.keda(part),
                lambda target, part=part, command=command: _run([*command, "-o", str(target), f"./cmd/{part}"], source),
            )
        _once(found.keda_config, lambda target: shutil.copytree(source / "config", target))


def _collect_crds(found: Programs, target: Path) -> None:
    target.mkdir()
    for path in (found.keda_config / "crd/bases").glob("*.yaml"):
        shutil.copy(path, target)
    for name in ("podmonitors", "prometheusrules"):
        shutil.copy(
            _module(PROMETHEUS_MODULE) / f"example/prometheus-operator-crd/monitoring.coreos.com_{name}.yaml", target
        )
    with tempfile.TemporaryDirectory(dir=found.folder, prefix="strimzi-") as folder:
        copy = ["mvn", "-q", "-B", "-f", str(HERE / "strimzi.pom.xml"), "dependency:copy-dependencies"]
        _run([*copy, f"-DoutputDirectory={folder}"], HERE)
        # The API's classes before the generator's older ones.
        jars = ":".join(str(path) for path in sorted(Path(folder).glob("*.jar")))
        kinds = [f"{kind}={target / name}" for kind, name in STRIMZI_KINDS.items()]
        _run(["java", "-cp", jars, "io.strimzi.crdgenerator.CrdGenerator", "--yaml", *kinds], HERE)


def _module(name: str) -> Path:
    """The folder of a Go module, downloaded if necessary; read-only."""
    # Outside of any module: the versions of ours are not to matter.
    folder = json.loads(_run(["go", "mod", "download", "-json", name], Path(tempfile.gettempdir())))["Dir"]
    return Path(folder)


def _run(command: Sequence[str], folder: Path) -> str:
    environment = os.environ | {"CGO_ENABLED": "0"}
    if shutil.which(command[0]) is None:
        raise BuildError(f"`{command[0]}` was not found: `make kube-test` needs Go, Maven and Java")
    done = subprocess.run(
        ["nice", "-n", "10", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_TIMEOUT_S,
    )
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout
