"""The runbook has an entry for everything that refers to it, and no link is broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.test_prometheus import alerts
from tests.deploy.tools import ROOT, load
from worker.errors import ErrorCode
from worker.settings import Settings, librdkafka_properties

DOCS = [ROOT / "docs" / name for name in ("deploy.md", "runbook.md", "capacity.md", "profiles.md", "content-rules.md")]


def headings(path: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """As GitHub and GitLab make them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(path)}


class TestRunbook:
    def test_every_alert_has_an_entry_under_its_link(self) -> None:
        found = anchors(ROOT / "docs/runbook.md")
        for alert in alerts():
            assert alert["annotations"]["runbook_url"].partition("#")[2] in found, alert["alert"]

    def test_every_error_code_has_an_entry(self) -> None:
        assert {code.value for code in ErrorCode} <= set(headings(ROOT / "docs/runbook.md"))

    def test_an_entry_for_an_alert_that_is_gone_is_found(self) -> None:
        text = (ROOT / "docs/runbook.md").read_text()
        section = text[text.index("# Alerts") : text.index("# Error codes")]
        assert set(re.findall(r"^## (\w+)$", section, re.MULTILINE)) == {alert["alert"] for alert in alerts()}

    @pytest.mark.parametrize(
        "trouble", ["out of memory", "slow generation", "poor pictures", "nsfw", "gpu not detected"]
    )
    def test_the_guides_troubles_are_there(self, trouble: str) -> None:
        assert any(trouble in heading.lower() for heading in headings(ROOT / "docs/runbook.md"))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
class TestPages:
    def test_links_lead_to_pages_and_headings(self, path: Path) -> None:
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            name, _, anchor = target.partition("#")
            page = path.parent / name if name else path
            assert page.exists(), target
            assert not anchor or anchor in anchors(page), target

    def test_settings_that_are_named_exist(self, path: Path) -> None:
        known = {name.upper() for name in Settings.model_fields}
        foreign = {"HF_TOKEN", "HF_HUB_OFFLINE", "TOY_WORKERS", "SECRETS_DIR", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"}
        for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", path.read_text()):
            assert name in known | foreign or librdkafka_properties({name: "x"}), name


def test_the_grace_periods_in_the_docs_are_those_of_the_files() -> None:
    text = (ROOT / "docs/deploy.md").read_text()
    rows = re.findall(
        r"^\| (`k8s/base`|`k8s/overlays/spot`|compose)[^|]*\| (\d+) s \| (\d+)[^|]*\| (\d+)", text, re.MULTILINE
    )
    documented = {where.strip("`"): tuple(map(int, numbers)) for where, *numbers in rows}
    base = dict(
        line.split("=", 1) for line in (ROOT / "k8s/base/worker.env").read_text().splitlines() if "_TIMEOUT_S=" in line
    )
    deployment = load(ROOT / "k8s/overlays/spot/deployment.yaml")["spec"]["template"]["spec"]
    literals = load(ROOT / "k8s/overlays/spot/kustomization.yaml")["configMapGenerator"][0]["literals"]
    spot = dict(literal.split("=", 1) for literal in literals)
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", (ROOT / "k8s/base/deployment.yaml").read_text())
    assert grace is not None
    compose = load(ROOT / "docker-compose.yml")["x-worker"]["stop_grace_period"]
    defaults = Settings()
    assert documented == {
        "k8s/base": (int(grace[1]), int(base["DRAIN_TIMEOUT_S"]), int(base["REVOKE_TIMEOUT_S"])),
        "k8s/overlays/spot": (
            deployment["terminationGracePeriodSeconds"],
            int(spot["DRAIN_TIMEOUT_S"]),
            int(spot["REVOKE_TIMEOUT_S"]),
        ),
        "compose": (int(compose.removesuffix("s")), int(defaults.drain_timeout_s), int(defaults.revoke_timeout_s)),
    }
