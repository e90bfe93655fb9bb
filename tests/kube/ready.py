"""A stand-in for nodes on which nothing runs: pods are ready, and a Job's pods have succeeded, as soon as they exist.

Commands such as `kubectl rollout status` and `kubectl wait` end by it; what a pod does is not looked at.
"""

from __future__ import annotations

import threading

from tests.kube.api import Api, ApiError, Object

PERIOD_S = 0.3
CONDITIONS = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]


def status(pod: Object) -> Object:
    """What the pod's status becomes."""
    if any(owner["kind"] == "Job" for owner in pod["metadata"].get("ownerReferences", ())):
        return {"phase": "Succeeded"}
    return {"phase": "Running", "conditions": CONDITIONS}


class Ready:
    """Marks the pods of one namespace, in a thread."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="ready", daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Raises what ended the thread."""
        self._stop.set()
        self._thread.join(30.0)
        if self.error is not None:
            raise self.error

    def _loop(self) -> None:
        while not self._stop.wait(PERIOD_S):
            try:
                for pod in self._api.items(self._pods):
                    if pod.get("status", {}).get("phase", "Pending") == "Pending":
                        self._mark(pod)
            except Exception as error:  # `stop` raises it
                self.error = error
                return

    def _mark(self, pod: Object) -> None:
        try:
            self._api.patch(f"{self._pods}/{pod['metadata']['name']}/status", {"status": status(pod)})
        except ApiError as error:
            # A rollout may have deleted it meanwhile.
            if error.status != 404:
                raise
