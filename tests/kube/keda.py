"""The real KEDA: operator, metrics adapter and admission webhooks, as child processes with KEDA's own manifests."""

from __future__ import annotations

import base64
import re
import shutil
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from devtools.local.process import LOOPBACK, ChildProcess, free_ports
from tests.deploy.tools import documents, load
from tests.kube.control_plane import KEDA_USER, ControlPlane
from tests.kube.programs import Programs

NAMESPACE = "keda"
START_TIMEOUT_S = 90.0
EXTERNAL_METRICS = "/apis/external.metrics.k8s.io/v1beta1"
_TRIGGER_VALUE = re.compile(r'keda_scaler_metrics_value\{[^}]*metric="(s\d+-kafka-[^"]*)"[^}]*\} (\S+)$')


class Keda:
    """KEDA's three programs. They watch every namespace."""

    def __init__(self, programs: Programs, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self._config = programs.keda_config
        self._certificates = folder / "keda-certificates"
        (self._metrics_port, self._grpc_port, probe, self._adapter_port, adapter_metrics, self._webhooks_port,
         webhooks_probe) = free_ports(7)  # fmt: skip
        shared = {"WATCH_NAMESPACE": "", "POD_NAMESPACE": NAMESPACE, "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE}
        operator = {
            "metrics-bind-address": f"{LOOPBACK}:{self._metrics_port}",
            "health-probe-bind-address": f"{LOOPBACK}:{probe}",
            "metrics-service-bind-address": f"{LOOPBACK}:{self._grpc_port}",
            "cert-dir": self._certificates,
            "zap-log-level": "info",
        }
        adapter = {
            "port": adapter_metrics,
            "bind-address": LOOPBACK,
            "secure-port": self._adapter_port,
            "metrics-service-address": f"{LOOPBACK}:{self._grpc_port}",
            "cert-dir": self._certificates,
            "tls-cert-file": self._certificates / "tls.crt",
            "tls-private-key-file": self._certificates / "tls.key",
            "client-ca-file": self._certificates / "ca.crt",
            **{f"{name}-kubeconfig": plane.kubeconfig() for name in ("lister", "authentication", "authorization")},
        }
        webhooks = {
            "port": self._webhooks_port,
            "cert-dir": self._certificates,
            "metrics-bind-address": "0",
            "health-probe-bind-address": f"{LOOPBACK}:{webhooks_probe}",
        }

        def process(part: str, flags: dict[str, Any], user: str) -> ChildProcess:
            command = [str(programs.keda(part)), *(f"--{name}={value}" for name, value in flags.items())]
            environment = shared | {"KUBECONFIG": str(plane.kubeconfig(user))}
            return ChildProcess(f"keda-{part}", command, plane.folder / "logs" / f"keda-{part}.log", environment)

        # The operator with the rights that KEDA's own manifests give it, and no more.
        self.operator = process("operator", operator, KEDA_USER)
        self._adapter = process("adapter", adapter, "admin")
        self._webhooks = process("webhooks", webhooks, "admin")

    def __enter__(self) -> Self:
        """Install KEDA's roles, start it, and return when its API answers."""
        try:
            self._issue()
            self._install_roles()
            self.operator.start()
            self.operator.wait_until(lambda: self._metrics() is not None, START_TIMEOUT_S)
            self._adapter.start()
            self._webhooks.start()
            self._register()
            self._adapter.wait_until(self._adapter_is_available, START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all."""
        self.stop()

    def stop(self) -> None:
        for process in (self._webhooks, self._adapter, self.operator):
            process.stop(5.0)

    def read_lag(self) -> dict[str, float]:
        """What the operator last read from its Kafka triggers, by trigger's metric name."""
        values = {}
        for line in (self._metrics() or "").splitlines():
            found = _TRIGGER_VALUE.match(line)
            if found is not None:
                values[found[1]] = float(found[2])
        return values

    def external_metric(self, namespace: str, scaled_object: str, metric: str) -> float:
        """A value of the external metrics API, which is what the HPA asks."""
        selector = f"labelSelector=scaledobject.keda.sh%2Fname%3D{scaled_object}"
        [item] = self._plane.api.items(f"{EXTERNAL_METRICS}/namespaces/{namespace}/{metric}?{selector}")
        return quantity(item["value"])

    def _metrics(self) -> str | None:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self._metrics_port}/metrics", timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return None

    def _issue(self) -> None:
        pair = self._plane.authority.issue("keda")
        self._certificates.mkdir(parents=True)
        for source, name in (
            (pair.certificate, "tls.crt"),
            (pair.key, "tls.key"),
            (self._plane.authority.file, "ca.crt"),
        ):
            shutil.copy(source, self._certificates / name)

    def _install_roles(self) -> None:
        api = self._plane.api
        api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        roles = {
            "ClusterRole": "clusterroles",
            "ClusterRoleBinding": "clusterrolebindings",
            "RoleBinding": "rolebindings",
        }
        for name in ("role.yaml", "role_binding.yaml"):
            for thing in documents((self._config / "rbac" / name).read_text()):
                group = "/apis/rbac.authorization.k8s.io/v1"
                namespace = thing["metadata"].get("namespace")
                if namespace is not None:
                    group += f"/namespaces/{namespace}"
                kind = roles.get(thing["kind"], "roles")
                api.create(f"{group}/{kind}", thing)

    def _register(self) -> None:
        """The adapter behind the API server, and the webhooks before it; here no failure of those is ignored."""
        api = self._plane.api
        bundle = base64.b64encode(self._plane.authority.file.read_bytes()).decode()
        service = {
            "metadata": {"name": "keda-metrics-apiserver"},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        }
        api.create(f"/api/v1/namespaces/{NAMESPACE}/services", service)
        registered = load(self._config / "metrics-server/api_service.yaml")
        registered["spec"] |= {"caBundle": bundle}
        registered["spec"]["service"]["port"] = self._adapter_port
        api.create("/apis/apiregistration.k8s.io/v1/apiservices", registered)
        hooks = load(self._config / "webhooks/validation_webhooks.yaml")
        for hook in hooks["webhooks"]:
            path = hook["clientConfig"]["service"]["path"]
            hook["clientConfig"] = {"url": f"https://{LOOPBACK}:{self._webhooks_port}{path}", "caBundle": bundle}
            hook["failurePolicy"] = "Fail"
        api.create("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", hooks)

    def _adapter_is_available(self) -> bool:
        found = self._plane.api.get("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io")
        conditions = found.get("status", {}).get("conditions", ())
        return any(one["type"] == "Available" and one["status"] == "True" for one in conditions)


def quantity(text: str) -> float:
    """A Kubernetes quantity without a unit, or in thousandths."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
