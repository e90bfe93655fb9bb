"""The parts of `make kube-test` that judge or translate, without any server."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, cast

import pytest

from tests.deploy.test_k8s import only, rendered
from tests.deploy.tools import ROOT, load
from tests.kube.api import Api
from tests.kube.kubelet import Kubelet
from tests.kube.ready import status
from tests.kube.steps import named
from tests.kube.strimzi import acls
from tests.kube.transcript import Transcript
from tests.kube.watch import Reading


@pytest.mark.parametrize("wrong", ["keda", "worker"])
def test_a_reading_agrees_only_if_all_accounts_do(wrong: str) -> None:
    lags = {"a": 1, "b": 0}
    accounts: dict[str, Any] = {"ledger": lags, "keda": lags, "worker": lags}
    assert Reading(**accounts).agrees
    assert Reading(**{**accounts, "worker": None}).agrees
    assert not Reading(**{**accounts, wrong: {"a": 1, "b": 1}}).agrees


def test_a_failed_check_is_told_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript(tmp_path / "transcript.txt")
    transcript.check("one", True)
    transcript.check("two", False, "why")
    transcript.close()
    assert transcript.failures == ["two"]
    assert "1 checks passed, 1 failed\nfailed: two" in (tmp_path / "transcript.txt").read_text()
    assert "FAIL two: why" in capsys.readouterr().out


def test_a_kafka_users_rules_become_acls() -> None:
    rules = load(ROOT / "k8s/kafka/user.yaml")["spec"]
    made = acls("sdxl-worker", rules)
    assert len(made) == sum(len(rule["operations"]) for rule in rules["authorization"]["acls"])
    assert {acl.principal for acl in made} == {"User:sdxl-worker"}


class StandInApi:
    """Secrets and ConfigMaps that hold their own name."""

    def get(self, path: str) -> dict[str, Any]:
        kind, name = path.split("/")[-2:]
        if kind == "secrets":
            keys = {"password": name, "ca.crt": name, "AWS_ACCESS_KEY_ID": name}
            return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}}
        return {"data": {"KAFKA_SSL_CA_LOCATION": "/etc/kafka-ca/ca.crt", "SDXL_LORA_PATH": "/models/lora"}}


def test_a_pods_process_gets_the_environment_and_the_files_of_its_spec(tmp_path: Path) -> None:
    template = only(rendered("overlays/many-gpus"), "Deployment")["spec"]["template"]
    pod = {"metadata": {"name": "sdxl-worker-1"}, "spec": template["spec"]}
    kubelet = Kubelet(cast(Api, StandInApi()), "image-generation", tmp_path, {})
    environment = kubelet._environment(pod)
    assert environment["WORKER_ID"] == "sdxl-worker-1"
    assert (Path(environment["SECRETS_DIR"]) / "KAFKA_SASL_PASSWORD").read_text() == "sdxl-worker"
    assert Path(environment["KAFKA_SSL_CA_LOCATION"]).read_text() == "kafka-cluster-ca-cert"
    assert (Path(environment["SECRETS_DIR"]) / "AWS_ACCESS_KEY_ID").is_file()
    assert Path(environment["SDXL_LORA_PATH"]).is_dir()


def test_a_pod_needs_its_account_secrets_claims_and_settings() -> None:
    spec = only(rendered("overlays/many-gpus"), "Deployment")["spec"]["template"]["spec"]
    [settings] = [one["configMapRef"]["name"] for one in spec["containers"][0]["envFrom"]]
    assert named(spec) == {
        ("serviceaccounts", "sdxl-worker"), ("secrets", "sdxl-worker"), ("secrets", "sdxl-worker-secrets"),
        ("secrets", "sdxl-worker-hub"), ("secrets", "kafka-cluster-ca-cert"),
        ("persistentvolumeclaims", "sdxl-models"), ("configmaps", settings),
    }  # fmt: skip


def test_a_jobs_pod_succeeds_and_every_other_is_ready() -> None:
    assert status({"metadata": {"ownerReferences": [{"kind": "Job"}]}}) == {"phase": "Succeeded"}
    other = status({"metadata": {"ownerReferences": [{"kind": "ReplicaSet"}]}})
    assert other["phase"] == "Running"
    assert {"type": "Ready", "status": "True"} in other["conditions"]
