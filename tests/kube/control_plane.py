"""etcd, kube-apiserver and kube-controller-manager, as child processes on free loopback ports."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml

from devtools.local.process import LOOPBACK, ChildProcess, free_ports
from tests.kube.api import Api, ApiError
from tests.kube.certificates import Authority
from tests.kube.programs import Programs

START_TIMEOUT_S = 120.0
# The controllers that the manifests need. There are no nodes but a stand-in, so nothing that watches over those.
CONTROLLERS = (
    "deployment-controller", "replicaset-controller", "horizontal-pod-autoscaler-controller", "namespace-controller",
    "serviceaccount-controller", "garbage-collector-controller", "persistentvolumeclaim-protection-controller",
    "disruption-controller", "endpointslice-controller", "job-controller",
)  # fmt: skip
# The HPA's default is 15 s.
HPA_PERIOD = "2s"
KEDA_USER = "system:serviceaccount:keda:keda-operator"


class ControlPlane:
    """A cluster without nodes. `folder` gets data, certificates, kubeconfigs and logs."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "certificates")
        self._programs = programs
        self._etcd_port, self._etcd_peer_port, port = free_ports(3)
        self.url = f"https://{LOOPBACK}:{port}"
        self._port = port
        self._tokens = {"admin": secrets.token_hex(16), KEDA_USER: secrets.token_hex(16)}
        self._processes: list[ChildProcess] = []
        self.api = Api(self.url, self._tokens["admin"], str(self.authority.file))

    def kubeconfig(self, user: str = "admin") -> Path:
        """The file with which a program is `user`."""
        path = self.folder / f"{user.rpartition(':')[2]}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.authority.file)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kube-test", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "kube-test", "context": {"cluster": "kube-test", "user": "user"}}],
            "current-context": "kube-test",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def __enter__(self) -> Self:
        """Start, and return when the API server answers."""
        try:
            self._start("etcd", self._etcd_flags())
            server = self._start("apiserver", self._apiserver_flags())
            server.wait_until(self._ready, START_TIMEOUT_S)
            self._start("controller-manager", self._controller_manager_flags())
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
        self.api.close()
        for process in reversed(self._processes):
            process.stop(5.0)

    def _start(self, part: str, flags: dict[str, str]) -> ChildProcess:
        arguments = [f"--{name}={value}" for name, value in flags.items()]
        log = self.folder / "logs" / f"{part}.log"
        process = ChildProcess(part, [str(self._programs.cluster), part, *arguments], log)
        self._processes.append(process)
        process.start()
        return process

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError, ApiError):
            return self.api.text("/readyz") == "ok"
        return False

    def _etcd_flags(self) -> dict[str, str]:
        client, peer = (f"http://{LOOPBACK}:{port}" for port in (self._etcd_port, self._etcd_peer_port))
        return {
            "data-dir": str(self.folder / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "log-level": "warn",
            # Nothing has to survive.
            "unsafe-no-fsync": "true",
        }

    def _apiserver_flags(self) -> dict[str, str]:
        tokens = self.folder / "tokens.csv"
        groups = {"admin": '"system:masters"'}
        tokens.write_text(
            "".join(f"{token},{user},{user},{groups.get(user, '')}\n" for user, token in self._tokens.items())
        )
        serving, accounts, aggregator = (self.authority.issue(name) for name in ("apiserver", "accounts", "aggregator"))
        return {
            "etcd-servers": f"http://{LOOPBACK}:{self._etcd_port}",
            "bind-address": LOOPBACK,
            "secure-port": str(self._port),
            # A loopback address cannot be an endpoint of the Service `kubernetes`, which nobody here uses.
            "endpoint-reconciler-type": "none",
            "advertise-address": LOOPBACK,
            "cert-dir": str(self.folder / "apiserver"),
            "tls-cert-file": str(serving.certificate),
            "tls-private-key-file": str(serving.key),
            "client-ca-file": str(self.authority.file),
            "token-auth-file": str(tokens),
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kube-test.invalid",
            "service-account-key-file": str(accounts.key),
            "service-account-signing-key-file": str(accounts.key),
            "service-cluster-ip-range": "10.96.0.0/16",
            # For KEDA's adapter, which serves an API of its own behind this one.
            "requestheader-client-ca-file": str(self.authority.file),
            "requestheader-allowed-names": "aggregator",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": str(aggregator.certificate),
            "proxy-client-key-file": str(aggregator.key),
        }

    def _controller_manager_flags(self) -> dict[str, str]:
        return {
            "kubeconfig": str(self.kubeconfig()),
            "controllers": ",".join(CONTROLLERS),
            "leader-elect": "false",
            "secure-port": "0",
            "horizontal-pod-autoscaler-sync-period": HPA_PERIOD,
        }
