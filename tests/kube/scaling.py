"""Real workers with a stand-in engine, a real Kafka and the real KEDA: none to one, one to many, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools.autoscaling.policy import LARGE
from devtools.local.seaweedfs import SeaweedFS
from tests.kube.control_plane import ControlPlane
from tests.kube.kafka import SecureKafka, Upstream
from tests.kube.keda import Keda, quantity
from tests.kube.kubelet import Kubelet
from tests.kube.shell import Shell
from tests.kube.steps import HPA, NAMESPACE, SCALED_OBJECT, Steps
from tests.kube.strimzi import Strimzi
from tests.kube.transcript import Transcript
from tests.kube.watch import Watch

BUCKET = "kube-test"
PARTITIONS = 6
MOST = 3
PICTURE_S = 5.0
COOLDOWN_S = 30
WAIT_S = 180.0
# For minutes, not hours: only times and sizes differ from the ScaledObject that is shipped.
QUICKER = {
    "/spec/pollingInterval": 1,
    "/spec/cooldownPeriod": COOLDOWN_S,
    "/spec/maxReplicaCount": MOST,
    "/spec/fallback/replicas": MOST,
    "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleUp/stabilizationWindowSeconds": 0,
    "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleUp/policies/0/periodSeconds": 5,
    "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleDown/stabilizationWindowSeconds": 5,
    "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleDown/policies/0/periodSeconds": 5,
}


class Scaling:
    """The scenes, in order."""

    def __init__(self, shell: Shell, steps: Steps, watch: Watch, transcript: Transcript) -> None:
        self._shell = shell
        self._steps = steps
        self._watch = watch
        self._upstream = watch.upstream
        self._transcript = transcript

    def play(self) -> None:
        """Raises TimeoutError: something did not come; the verdict is given all the same."""
        try:
            self._until(lambda: self._watch.now == 0 and not self._watch.kubelet.workers(), "no requests: no worker")
            self._from_none_to_one_and_back()
            self._markers()
            self._expired()
            self._many()
        finally:
            self._verdict()

    def _from_none_to_one_and_back(self) -> None:
        self._transcript.heading("the first request")
        index = self._mark()
        self._upstream.send(self._upstream.topics.normal)
        self._until(lambda: self._watch.now == 1, "the first request starts a worker")
        self._back_to_none(index)

    def _markers(self) -> None:
        self._transcript.heading("transactional producers: records, markers, and a transaction that is aborted")
        index = self._mark()
        with self._paused():
            self._upstream.send_in_transaction(self._upstream.topics.normal, 3, commit=True)
            self._upstream.send_in_transaction(self._upstream.topics.high, 2, commit=False)
            self._upstream.send(self._upstream.topics.urgent)
        self._back_to_none(index)

    def _expired(self) -> None:
        self._transcript.heading("records that expire while there is no worker: some, and all of a partition")
        index = self._mark()
        topics = self._upstream.topics
        with self._paused():
            self._upstream.send(topics.normal, 5, partition=0)
            self._upstream.expire(topics.normal, 0, but=2)
            self._upstream.send(topics.high, 4, partition=1)
            self._upstream.expire(topics.high, 1, but=0)
        self._back_to_none(index)

    def _many(self) -> None:
        self._transcript.heading(f"a backlog: up to {MOST} workers, and down one by one")
        index = self._mark()
        for topic in self._upstream.topics.requests:
            self._upstream.send(topic, 6)
        self._hpa_asks()
        self._until(lambda: self._watch.now == MOST, f"{MOST} workers for a backlog")
        seen = self._back_to_none(index)
        top = seen.index(MOST)
        self._transcript.check("up without a gap", seen[:top] == sorted(seen[:top]), str(seen))
        self._transcript.check("down one by one", seen[top:] == list(range(MOST, -1, -1)), str(seen))

    def _hpa_asks(self) -> None:
        """KEDA's adapter, which the HPA asks, gives the sum of the operator's lags; the target is the shipped one."""
        keda = self._watch.keda
        [metric] = self._watch.api.get(HPA)["spec"]["metrics"]
        target = quantity(metric["external"]["target"]["averageValue"])
        self._transcript.check("the HPA's target is the policy's", target == LARGE.target, f"{target:g} a worker")

        def is_the_sum() -> bool:
            lag = sum(keda.read_lag().values())
            return lag > 0 and keda.external_metric(NAMESPACE, "sdxl-worker", "composite-metric") == lag

        self._until(is_the_sum, "the HPA's metric is the sum of the three lags")

    def _verdict(self) -> None:
        self._transcript.heading(
            "what KEDA read, the workers' own metric and Kafka's offsets, whenever the lag stood still"
        )
        readings = self._watch.readings
        for reading in readings:
            self._transcript.note(str(reading))
        wrong = [str(reading) for reading in readings if not reading.agrees]
        busy = [r for r in readings if any(r.ledger.values())]
        with_worker = [r for r in busy if r.worker is not None]
        self._transcript.check("all accounts agree", not wrong, f"{len(readings)} readings; " + "; ".join(wrong[:3]))
        self._transcript.check(
            "there was lag with and without a worker", 0 < len(with_worker) < len(busy), f"{len(busy)}"
        )
        counts = self._upstream.outcomes()
        missing = [name for name in self._upstream.sent if counts.get(name) != 1]
        extra = counts.keys() - set(self._upstream.sent)
        self._transcript.check(
            f"each of {len(self._upstream.sent)} requests has one outcome", not missing and not extra,
            f"not once: {missing[:3]}, not asked: {list(extra)[:3]}" if missing or extra else "",
        )  # fmt: skip
        exits = self._watch.kubelet.exits
        self._transcript.check("every worker drained with exit code 0", set(exits) == {0}, str(exits))

    def _back_to_none(self, index: int) -> list[int]:
        lag = self._upstream.lag
        self._until(lambda: not any(lag().values()), "all is answered and committed to the end")
        self._until(lambda: self._watch.now == 0 and not self._watch.kubelet.workers(), "then no worker again")
        self._transcript.note(f"replicas: {self._watch.path(index)}")
        return self._watch.since(index)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """KEDA holds still at no worker, so that requests wait."""
        note = "autoscaling.keda.sh/paused-replicas"
        self._watch.comparing = False
        self._annotate({note: "0"})
        self._until(self._is_paused, "KEDA pauses")
        yield
        self._annotate({note: None})
        self._until(lambda: not self._is_paused(), "KEDA goes on")
        self._watch.comparing = True

    def _is_paused(self) -> bool:
        conditions = self._watch.api.get(SCALED_OBJECT).get("status", {}).get("conditions", ())
        return any(one["type"] == "Paused" and one["status"] == "True" for one in conditions)

    def _annotate(self, annotations: dict[str, str | None]) -> None:
        self._watch.api.patch(SCALED_OBJECT, {"metadata": {"annotations": annotations}})

    def _mark(self) -> int:
        return len(self._watch.replicas)

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        def checked() -> bool:
            for part in (self._watch, self._watch.kubelet):
                if part.error is not None:
                    raise part.error
            return is_so()

        if not self._steps.until(checked, what, WAIT_S):
            raise TimeoutError(what)


def write_site(shell: Shell, kafka: SecureKafka, s3: SeaweedFS) -> None:
    """The example of a site with this Kafka, this S3, and smaller numbers."""
    site = shell.copy / "k8s/site"
    replaced = [{"op": "replace", "path": path, "value": value} for path, value in QUICKER.items()]
    replaced += [
        {"op": "replace", "path": f"/spec/triggers/{n}/metadata/bootstrapServers", "value": kafka.secure_servers}
        for n in range(3)
    ]
    sizes = {"/spec/partitions": PARTITIONS, "/spec/replicas": 1, "/spec/config/min.insync.replicas": 1}
    smaller = [{"op": "replace", "path": path, "value": value} for path, value in sizes.items()]
    patches = "".join(
        f"  - target: {{kind: {kind}}}\n    patch: '{json.dumps(patch)}'\n"
        for kind, patch in (("ScaledObject", replaced), ("KafkaTopic", smaller))
    )
    file = site / "kustomization.yaml"
    text = file.read_text().replace("# components: [../gateway]", "components: [../scale-to-zero]")
    file.write_text(text.replace("\npatches:\n", f"\npatches:\n{patches}"))
    addresses = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.secure_servers,
        "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
        "AWS_S3_BUCKET": BUCKET,
    }
    _rewrite(site / "worker.env", addresses)
    _rewrite(
        site / "secrets.env",
        {k: v for k, v in s3.environment.items() if k in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
    )


def _rewrite(file: Path, values: dict[str, str]) -> None:
    kept = [line for line in file.read_text().splitlines() if line.partition("=")[0] not in values]
    file.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in values.items())]) + "\n")


def scale(plane: ControlPlane, keda: Keda, shell: Shell, transcript: Transcript, folder: Path) -> None:
    """Start Kafka, S3, the stand-ins for Strimzi and the kubelet; apply; play; stop all."""
    transcript.heading("real Kafka (TLS, SCRAM, ACLs), real S3, real workers with a stand-in engine")
    kafka, s3 = SecureKafka(plane.authority, folder), SeaweedFS(folder / "s3", BUCKET)
    steps = Steps(plane.api, shell, transcript)
    with kafka.cluster, s3:
        upstream = Upstream(kafka.cluster.bootstrap_servers)
        strimzi = Strimzi(plane.api, plane.authority.file, upstream.admin)
        engine = {
            "CHAOS_ENGINE": "stand-in",
            "CHAOS_PICTURE_S": str(PICTURE_S),
            "OMP_NUM_THREADS": "1",
            "DEVICE": "cpu",
        }
        kubelet = Kubelet(plane.api, NAMESPACE, folder / "pods", engine)
        watch = Watch(plane.api, keda, kubelet, upstream, PARTITIONS)
        strimzi.start()
        try:
            steps.fresh_site("many-gpus", lambda: write_site(shell, kafka, s3))
            began = time.monotonic()
            kubelet.start()
            watch.start()
            Scaling(shell, steps, watch, transcript).play()
            transcript.note(f"{time.monotonic() - began:.0f} s")
        finally:
            watch.stop()
            kubelet.stop()
            strimzi.stop()
            upstream.close()
        steps.remove()
