"""A stand-in for the scheduler and the kubelet: worker processes for the pods of one namespace.

A pod's container becomes a process with the environment that its spec says: ConfigMaps, Secrets and fields of the pod.
What it mounts becomes a folder, and paths in variables are rewritten to it. Init containers are not run.
"""

from __future__ import annotations

import base64
import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devtools.local.process import LOOPBACK, ChildProcess, free_port
from tests.forking import ForkedProcess
from tests.kube.api import Api, ApiError, Object

PERIOD_S = 0.3
PROBE_TIMEOUT_S = 1.0
NODE = "gpu-node"


@dataclass(slots=True)
class Running:
    """A pod's process. `port`: of its `/metrics` and `/ready`."""

    name: str
    process: ChildProcess
    port: int
    ready: bool = False
    ending: bool = False

    def get(self, path: str) -> str | None:
        """What it answers; None where it does not or refuses."""
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}{path}", timeout=PROBE_TIMEOUT_S) as answer:
                text: str = answer.read().decode()
                return text
        except (OSError, urllib.error.HTTPError):
            return None


class Kubelet:
    """Keeps one process a pod. `exits`: the exit codes of processes that have ended."""

    def __init__(self, api: Api, namespace: str, folder: Path, extra: Mapping[str, str]) -> None:
        self._api = api
        self._folder = folder
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._namespace = namespace
        self._extra = dict(extra)
        self._running: dict[str, Running] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="kubelet", daemon=True)
        self._lock = threading.Lock()
        self.error: Exception | None = None
        self.exits: list[int | None] = []

    def start(self) -> None:
        node = {"metadata": {"name": NODE}, "status": {"capacity": {"nvidia.com/gpu": "8"}}}
        self._api.create("/api/v1/nodes", node)
        self._thread.start()

    def stop(self) -> None:
        """Drain what runs."""
        self._stop.set()
        self._thread.join(60.0)
        for running in self.workers():
            running.process.stop(30.0)

    def workers(self) -> list[Running]:
        with self._lock:
            return list(self._running.values())

    def _loop(self) -> None:
        while not self._stop.wait(PERIOD_S):
            try:
                for pod in self._api.items(self._pods):
                    self._attend(pod)
            except Exception as error:  # the run ends with it
                self.error = error
                return

    def _attend(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        running = self._running.get(name)
        if pod["metadata"].get("deletionTimestamp"):
            self._end(name, running)
        elif not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            self._api.create(f"{self._pods}/{name}/binding", {"metadata": {"name": name}, "target": target})
        elif running is None:
            # A Secret may not be there yet: the pod waits, as a real one does.
            with contextlib.suppress(ApiError):
                begun = self._begin(pod)
                with self._lock:
                    self._running[name] = begun
        elif not running.process.running:
            # As `restartPolicy: Always`.
            self.exits.append(running.process.exit_code)
            running.process.start()
        else:
            self._probe(pod, running)

    def _begin(self, pod: Object) -> Running:
        name, port = pod["metadata"]["name"], free_port()
        environment = (
            self._environment(pod)
            | self._extra
            | {
                "HTTP_HOST": LOOPBACK,
                "HTTP_PORT": str(port),
                "CHAOS_WORK_LOG": str(self._folder / f"{name}.work"),
                "CHAOS_TRACE": str(self._folder / f"{name}.offsets"),
            }
        )
        process = ForkedProcess(name, ["tests.chaos.worker_main"], self._folder / f"{name}.log", environment)
        process.start()
        return Running(name, process, port)

    def _end(self, name: str, running: Running | None) -> None:
        """SIGTERM, and when it has drained the pod is gone."""
        if running is not None and running.process.running:
            if not running.ending:
                running.ending = True
                running.process.terminate()
            return
        if running is not None:
            self.exits.append(running.process.exit_code)
        self._api.delete(f"{self._pods}/{name}", {"gracePeriodSeconds": 0})
        with self._lock:
            self._running.pop(name, None)

    def _probe(self, pod: Object, running: Running) -> None:
        ready = running.get("/ready") is not None
        if ready == running.ready and pod.get("status", {}).get("phase") == "Running":
            return
        running.ready = ready
        status = "True" if ready else "False"
        conditions = [{"type": kind, "status": status} for kind in ("Ready", "ContainersReady")]
        self._api.patch(
            f"{self._pods}/{running.name}/status", {"status": {"phase": "Running", "conditions": conditions}}
        )

    def _environment(self, pod: Object) -> dict[str, str]:
        [container] = pod["spec"]["containers"]
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            found |= self._config_map(source["configMapRef"]["name"])
        for entry in container["env"]:
            found[entry["name"]] = entry["value"] if "value" in entry else self._value(entry["valueFrom"], pod)
        folders = self._volumes(pod, container)
        for name, value in found.items():
            for mounted, folder in folders.items():
                if value == mounted or value.startswith(f"{mounted}/"):
                    found[name] = str(folder) + value.removeprefix(mounted)
        return found

    def _value(self, source: Object, pod: Object) -> str:
        if "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "metadata.name"
            name: str = pod["metadata"]["name"]
            return name
        raise AssertionError(f"no secret belongs in the environment: {source}")

    def _volumes(self, pod: Object, container: Object) -> dict[str, Path]:
        """The folder of each mount; a Secret's has its files."""
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        folders = {}
        for mount in container["volumeMounts"]:
            folder = self._folder / pod["metadata"]["name"] / mount["name"]
            folder.mkdir(parents=True, exist_ok=True)
            volume = volumes[mount["name"]]
            if "secret" in volume:
                for key, value in self._secret(volume["secret"]["secretName"]).items():
                    (folder / key).write_bytes(value)
            for source in volume.get("projected", {}).get("sources", ()):
                data = self._secret(source["secret"]["name"])
                paths = {item["key"]: item["path"] for item in source["secret"].get("items", ())}
                for key, value in data.items():
                    if not paths or key in paths:
                        (folder / paths.get(key, key)).write_bytes(value)
            if "persistentVolumeClaim" in volume:
                # As `models pull` in the init container would.
                (folder / "lora").mkdir(exist_ok=True)
            folders[mount["mountPath"]] = folder
        return folders

    def _secret(self, name: str) -> dict[str, bytes]:
        data = self._api.get(f"/api/v1/namespaces/{self._namespace}/secrets/{name}").get("data", {})
        return {key: base64.b64decode(value) for key, value in data.items()}

    def _config_map(self, name: str) -> dict[str, str]:
        data: dict[str, str] = self._api.get(f"/api/v1/namespaces/{self._namespace}/configmaps/{name}")["data"]
        return data
