"""The documented steps on a real API server: each overlay into an empty namespace, one overlay over another, and every
component beside one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from tests.deploy.tools import deploy_commands, page_commands
from tests.kube.api import Api, Object
from tests.kube.ready import Ready
from tests.kube.shell import Shell
from tests.kube.transcript import Transcript

NAMESPACE = "image-generation"
OVERLAYS = ("one-gpu", "many-gpus", "spot")
WAIT_S = 90.0
POLL_S = 0.3
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
DEPLOYMENT = f"{DEPLOYMENTS}/sdxl-worker"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
SCALED_OBJECT = f"/apis/keda.sh/v1alpha1/namespaces/{NAMESPACE}/scaledobjects/sdxl-worker"
HPA = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/keda-hpa-sdxl-worker"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
# Without scale-to-zero, after which there need not be a pod of the worker's; the scaling has it.
COMPONENTS = ("clients", "dashboards", "dispatch", "gateway", "pull-models", "webhooks")


class Steps:
    """Follows docs/deploy.md; `transcript` gets every command and its output."""

    def __init__(self, api: Api, shell: Shell, transcript: Transcript) -> None:
        self._api = api
        self._shell = shell
        self._transcript = transcript

    def fresh_site(self, overlay: str, edit: Callable[[], None] = lambda: None) -> None:
        """Run every documented command on a new copy; the site has this overlay, and what `edit` does to it."""
        self._shell.fresh_copy()
        for command in deploy_commands("Kubernetes"):
            self._shell.run(command)
            if command.startswith("cp -r k8s/site.example"):
                self.choose(overlay)
                edit()
        # As documented: "again after each change", and the last command changed the rules.
        self._shell.run("kubectl apply -k k8s/site")

    def choose(self, overlay: str) -> None:
        """What a person edits in the site's kustomization."""
        self._shell.run(f"sed -i -E 's#(\\.\\./overlays/)[a-z-]+#\\1{overlay}#' k8s/site/kustomization.yaml")

    def each_overlay_from_nothing(self) -> None:
        for overlay in OVERLAYS:
            self._transcript.heading(f"{overlay}, into an empty namespace")
            self.fresh_site(overlay)
            self.verify(overlay)
            self.remove()

    def one_over_another(self) -> None:
        """Upgrades in place, in the order in which a service grows, and back again; then the gateway beside it."""
        self._transcript.heading("one-gpu; then many-gpus, spot and one-gpu over it; then the gateway")
        self.fresh_site("one-gpu")
        self.choose("many-gpus")
        self.follow("From `one-gpu` to `many-gpus` or `spot`")
        self.verify("many-gpus")
        self.choose("spot")
        self._shell.run("kubectl apply -k k8s/site")
        self.verify("spot")
        self.choose("one-gpu")
        self.follow("From `many-gpus` or `spot` to `one-gpu`")
        self.verify("one-gpu")
        self.follow("The gateway")
        self.verify("one-gpu")
        self.remove()

    def every_component(self) -> None:
        """The largest site, into an empty namespace, with pods that are ready as soon as they exist."""
        self._transcript.heading(f"many-gpus with {', '.join(COMPONENTS)}, into an empty namespace")
        ready = Ready(self._api, NAMESPACE)
        ready.start()
        try:
            self.fresh_site("many-gpus", lambda: self.name_components(COMPONENTS))
            self.follow("One Job for the weights")
            self.follow("The gateway")
            self.follow("Webhooks")
            self.follow("How to turn it on", "dispatch.md")
            self.verify("many-gpus")
        finally:
            ready.stop()
        self.remove()

    def name_components(self, names: Sequence[str]) -> None:
        """What a person edits in the site's kustomization."""
        line = f"components: [{', '.join(f'../{name}' for name in names)}]"
        self._shell.run(f"sed -i -E 's#^\\# components: .*#{line}#' k8s/site/kustomization.yaml")

    def follow(self, heading: str, page: str = "deploy.md") -> None:
        """The commands of a section of the docs."""
        self._transcript.note(f"docs/{page}: {heading}")
        for command in page_commands(page, heading):
            self._shell.run(command)

    def verify(self, overlay: str) -> None:
        """A second apply changes nothing; pods are admitted; nothing that is not served or known was sent."""
        before = self._applied()
        output = self._shell.run("kubectl apply -k k8s/site")
        after = self._applied()
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        self._transcript.check(
            f"{overlay}: a second apply changes none of {len(after)} objects", before == after, ", ".join(changed)
        )
        # kubectl sends a PodDisruptionBudget's selector each time, since its patch strategy is `replace`.
        told = [
            line
            for line in output.splitlines()
            if not line.endswith(" unchanged") and "poddisruptionbudget" not in line
        ]
        self._transcript.check(f"{overlay}: and kubectl says so", not told, "; ".join(told))
        self._shell.run("kubectl diff -k k8s/site")
        checked = self._shell.run("kubectl apply -k k8s/site --dry-run=server --validate=strict", shown=False)
        self._transcript.check(
            f"{overlay}: no difference, and no warning of the server's strict validation", "Warning" not in checked
        )
        # The namespace enforces `restricted`: a pod that does not keep it is refused when it is made, not when applied.
        makers = self._makers()
        self.until(
            lambda: {maker["metadata"]["name"] for maker in makers} <= self._names_of_pods(),
            f"{overlay}: the controllers made pods of {len(makers)} kind(s) that `restricted` admits",
        )
        missing = self._missing()
        self._transcript.check(
            f"{overlay}: each Secret, ConfigMap and claim of the pods exists", not missing, ", ".join(missing)
        )
        scaled = self._api.find(SCALED_OBJECT)
        has = "no autoscaler" if overlay == "one-gpu" else "an autoscaler"
        self._transcript.check(f"{overlay}: {has}", (scaled is None) == (overlay == "one-gpu"))
        if scaled is not None:
            # KEDA makes the HPA once it has reached Kafka, which is not there in this part.
            self.until(self._is_kedas, f"{overlay}: KEDA took it up")

    def _is_kedas(self) -> bool:
        return "finalizer.keda.sh" in self._api.get(SCALED_OBJECT)["metadata"].get("finalizers", ())

    def _applied(self) -> dict[str, object]:
        """What was applied as the server has it, without what controllers write."""
        found = {}
        for thing in json.loads(self._shell.run("kubectl get -k k8s/site -o json", shown=False))["items"]:
            meta = thing["metadata"]
            thing.pop("status", None)
            for changing in ("resourceVersion", "managedFields"):
                meta.pop(changing, None)
            found[f"{thing['kind']}/{meta['name']}"] = thing
        return found

    def remove(self) -> None:
        """Back to an empty cluster. Strimzi's namespace stays, as it does in life."""
        self._shell.run(f"kubectl delete namespace {NAMESPACE} --timeout=120s", shown=False)
        self._shell.run("kubectl -n kafka delete kafkatopics,kafkausers --all", shown=False)
        self._shell.run("kubectl -n kafka delete secret sdxl-worker --ignore-not-found", shown=False)

    def until(self, is_so: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> bool:
        """Wait for it; a failed check if it does not come."""
        ends_at = time.monotonic() + wait_s
        while not (found := is_so()) and time.monotonic() < ends_at:
            time.sleep(POLL_S)
        self._transcript.check(what, found)
        return found

    def _makers(self) -> list[Object]:
        """What makes pods."""
        return [*self._api.items(DEPLOYMENTS), *self._api.items(JOBS)]

    def _names_of_pods(self) -> set[str]:
        """The label that says what each pod is."""
        return {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in self._api.items(PODS)}

    def _missing(self) -> list[str]:
        """What pods name and the API server does not have."""
        wanted = {one for maker in self._makers() for one in named(maker["spec"]["template"]["spec"])}
        return [
            f"{kind}/{name}"
            for kind, name in sorted(wanted)
            if self._api.find(f"/api/v1/namespaces/{NAMESPACE}/{kind}/{name}") is None
        ]


def named(spec: Object) -> set[tuple[str, str]]:
    """Kind and name of all that a pod cannot start without."""
    wanted: set[tuple[str, str]] = {("serviceaccounts", spec.get("serviceAccountName", "default"))}
    for volume in spec["volumes"]:
        if "secret" in volume:
            wanted.add(("secrets", volume["secret"]["secretName"]))
        sources = volume.get("projected", {}).get("sources", ())
        wanted |= {("secrets", source["secret"]["name"]) for source in sources}
        if "persistentVolumeClaim" in volume:
            wanted.add(("persistentvolumeclaims", volume["persistentVolumeClaim"]["claimName"]))
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        wanted |= {("configmaps", source["configMapRef"]["name"]) for source in container.get("envFrom", ())}
    return wanted
