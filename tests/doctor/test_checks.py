"""What each check makes of what it sees, without a server."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.credentials import Credentials, RefreshableCredentials

from worker.cluster.check import Problem, problems_by_subject
from worker.cluster.checker import needs_of
from worker.cluster.facts import ClusterFacts, Presence, TopicFacts
from worker.doctor import bucket, clock, consuming, credentials, gpu, kafka, machine, model, settings, transactions
from worker.doctor.finding import Finding, Level
from worker.settings import Settings

DEMO = Path(__file__).resolve().parents[2] / "devtools" / "models" / "demo"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def made(**given: Any) -> Settings:
    return Settings(_env_file=None, **({"aws_s3_bucket": "pictures"} | given))


def one(found: Iterator[Finding], subject: str) -> Finding:
    [finding] = [finding for finding in found if finding.subject == subject]
    return finding


def test_every_wrong_setting_is_told_at_once() -> None:
    wrong = made(aws_s3_bucket=None, sdxl_lora_path="/nowhere", kafka_properties={"no.such": "1"})
    texts = [finding.text for finding in settings.check(wrong) if finding.level is Level.FAILED]
    assert len(texts) == 3
    assert all(any(name in text for text in texts) for name in ("AWS_S3_BUCKET", "SDXL_LORA_PATH", "no.such"))
    assert [finding.level for finding in settings.check(made())] == [Level.OK]
    assert [finding.level for finding in settings.check(made(delivery="at-least-once"))] == [Level.OK, Level.WARNING]


def test_without_a_broker_the_other_checks_of_kafka_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "ANSWER_S", 0.5)
    monkeypatch.setattr(consuming, "CALL_S", 0.5)
    monkeypatch.setattr(transactions, "ANSWER_S", 0.5)
    nowhere = made(kafka_bootstrap_servers="127.0.0.1:1")
    found = list(kafka.check(nowhere))
    assert found[0].level is Level.FAILED
    assert "127.0.0.1:1 does not answer" in found[0].text
    assert {finding.level for finding in found[1:]} == {Level.SKIPPED}
    assert [finding.level for finding in consuming.check(nowhere)] == [Level.SKIPPED]
    assert [finding.level for finding in transactions.check(nowhere)] == [Level.SKIPPED]


def test_a_problem_of_the_cluster_is_split_into_what_and_what_to_do() -> None:
    needs = needs_of(made())
    bare = dict.fromkeys(needs.topics.all, TopicFacts(Presence.PRESENT, 3, frozenset({"READ"}), 1))
    facts = ClusterFacts(bare | {needs.topics.failed: TopicFacts(Presence.MISSING)})
    told = [
        kafka._finding(subject, problem)
        for subject, found in problems_by_subject(facts, needs).items()
        for problem in found
    ]
    assert {finding.subject for finding in told} == {"topics", "rights", "limits"}
    assert all(finding.advice and finding.advice not in finding.text for finding in told)
    rights = next(finding for finding in told if finding.subject == "rights")
    assert (rights.text, rights.advice) == (
        f"topic {needs.topics.completed}: this Kafka user has no right to WRITE",
        "grant it",
    )
    assert kafka._finding("topics", Problem("unseen: wait", certain=False)).level is Level.WARNING


@pytest.mark.parametrize(
    ("ahead_s", "level"),
    [(1.9, Level.OK), (-1.9, Level.OK), (3, Level.WARNING), (-3, Level.WARNING), (900, Level.FAILED)],
)
def test_a_clock_that_is_off(ahead_s: float, level: Level) -> None:
    assert clock.judge("S3", ahead_s).level is level


def test_the_clock_is_read_from_a_refusal_too() -> None:
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        found = one(clock.check(made(aws_endpoint_url_s3=f"http://127.0.0.1:{server.server_port}")), "clock")
    assert found.level is Level.WARNING
    assert "ahead of that of S3" in found.text


def test_how_long_credentials_last() -> None:
    def told(found: Credentials, token: str | None = None) -> Finding:
        return credentials._lifetime(found, token, NOW, "here")

    def role(left: timedelta) -> Credentials:
        return RefreshableCredentials("a", "s", "t", NOW + left, dict, "iam-role")

    assert told(Credentials("a", "s")).level is Level.OK
    assert told(Credentials("a", "s", "t"), "t").level is Level.WARNING
    assert told(role(timedelta(hours=2)), "t").level is Level.OK
    assert "2 h 0 min" in told(role(timedelta(hours=2)), "t").text
    assert told(role(timedelta(minutes=2)), "t").level is Level.WARNING


def test_a_region_that_differs_and_one_that_is_not_told() -> None:
    given = made(aws_region="eu-west-1")
    assert bucket._region(given, "eu-west-1").level is Level.OK
    assert bucket._region(given, None).level is Level.SKIPPED
    differs = bucket._region(given, "us-east-2")
    assert differs.level is Level.WARNING
    assert "AWS_REGION=us-east-2" in differs.advice


def test_a_model_that_is_complete_cut_or_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(DEMO / "base", tmp_path / "cut")
    (tmp_path / "cut" / "vae" / "config.json").unlink()
    given = made(sdxl_model_id=str(DEMO / "base"), sdxl_refiner_id=str(tmp_path / "cut"))
    assert one(model.check(given), "model").level is Level.OK
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    refiner = one(model.check(given), "refiner")
    assert refiner.level is Level.FAILED
    assert "vae/config.json" in refiner.text
    for offline, level in (("", Level.WARNING), ("1", Level.FAILED)):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        absent = one(model.check(made(sdxl_model_id="nobody/no-such-model", sdxl_refiner_id="none")), "model")
        assert absent.level is level
        assert "models pull" in absent.advice


def test_memory_of_a_machine_and_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 32000000 kB\nMemFree: 1 kB\nMemAvailable: 24000000 kB\n")
    assert machine.read_memory(tmp_path) == machine.Memory(32e6 * 1024, 24e6 * 1024, "this machine")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("3000000000\n")
    assert machine.read_memory(tmp_path) == machine.Memory(32e6 * 1024, 24e6 * 1024, "this machine")
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("8000000000\n")
    limited = machine.read_memory(tmp_path)
    assert limited == machine.Memory(8e9, 5e9, "this container's limit")
    assert machine.judge_memory(limited, None).level is Level.FAILED
    assert machine.judge_memory(limited, int(3e9)).level is Level.WARNING
    assert machine.judge_memory(limited, int(5e8)).level is Level.OK
    assert machine.read_memory(tmp_path / "none") is None


def card(gigabytes: float, free: float | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    properties = SimpleNamespace(name="RTX 4090", major=8, minor=9, total_memory=int(gigabytes * 1e9), uuid="u")
    cuda = SimpleNamespace(device_count=lambda: 1, get_device_properties=lambda _index: properties)
    monkeypatch.setattr(gpu, "_free_bytes", lambda _uuid: None if free is None else free * 1e9)
    return SimpleNamespace(cuda=cuda)


@pytest.mark.parametrize(
    ("total", "free", "level", "part"),
    [
        (24, 23, Level.OK, "decoded whole"),
        (24, 9, Level.WARNING, "9.0 GB of it free"),
        (24, None, Level.OK, "weights"),
        (13, 13, Level.WARNING, "which is tight"),
        (11, 11, Level.FAILED, "these settings need 12.7"),
        (4, 4, Level.FAILED, "these settings need"),
    ],
)
def test_a_cards_memory_against_the_models(
    total: float, free: float | None, level: Level, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.memory_plan.asked.read_weights", lambda _id, *, assumed, **_half: assumed)
    found = one(gpu._device(made(), card(total, free, monkeypatch), 0), "gpu memory")
    assert found.level is level
    assert part in found.text
    if level is Level.FAILED:
        assert found.advice == ("set REFINER_OFFLOAD=true" if total == 11 else "use a larger card")


def test_a_card_of_a_number_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = one(gpu._device(made(device="cuda:1"), card(24, 24, monkeypatch), 1), "gpu")
    assert found.level is Level.FAILED
