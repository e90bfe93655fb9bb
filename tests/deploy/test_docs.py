"""The pages say what is true: every link, path, setting, metric, verb and make target that they name is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from devtools import settings_table
from tests.deploy.test_prometheus import alerts
from tests.deploy.tools import ROOT, load
from worker.cli import Verbs
from worker.errors import ErrorCode
from worker.settings import Settings, librdkafka_properties

DOCS = [
    *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md")), ROOT / "devtools/models/demo/README.md",
    ROOT / "examples/README.md",
]  # fmt: skip

# Files that a page names and that are not in the repository: what the reader writes, and what a command makes.
FOREIGN_FILES = {
    ".env", "worker.env.secret", "NAME.txt", "metadata.jsonl", "v2.avsc", "kafka-consumer-groups.sh",
    "scheduler_config.json", "model_index.json",
}  # fmt: skip
# Documents that earlier pages pointed to and that nobody outside can read.
UNSEEN_DOCUMENTS = re.compile(r"\bfacts(?:\.md|, [A-Z])|\bDESIGN\b|\bstyle\.md|service.guide")

# Folders that git ignores, some of them large.
_NOT_OURS = {".git", ".venv", "out", ".local", ".cache", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}


@cache
def files() -> frozenset[str]:
    """The paths of the repository's files and folders."""
    top = [path for path in ROOT.iterdir() if path.name not in _NOT_OURS]
    inside = [path for folder in top if folder.is_dir() for path in folder.rglob("*")]
    return frozenset(str(path.relative_to(ROOT)) for path in [*top, *inside])


@cache
def constants() -> frozenset[str]:
    """Names of constants in the code, which pages for developers speak of."""
    sources = [path for folder in ("worker", "devtools", "tests") for path in (ROOT / folder).rglob("*.py")]
    return frozenset(
        name for path in sources for name in re.findall(r"^(_?[A-Z][A-Z0-9_]+)\b", path.read_text(), re.MULTILINE)
    )


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)


def headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)


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

    def test_commands_name_their_broker(self) -> None:
        """kcat and Kafka's own tools know no default address, and end with a line about their usage."""
        text = (ROOT / "docs/runbook.md").read_text()
        for command in re.findall(r"\bkcat -.*", text):
            assert command.startswith("kcat -b "), command
        for command in re.findall(r"kafka-[a-z-]+\.sh.*", text):
            assert "--bootstrap-server" in command, command

    def test_an_entry_for_an_alert_that_is_gone_is_found(self) -> None:
        text = (ROOT / "docs/runbook.md").read_text()
        section = text[text.index("# Alerts") : text.index("# Error codes")]
        assert set(re.findall(r"^## (\w+)$", section, re.MULTILINE)) == {alert["alert"] for alert in alerts()}

    @pytest.mark.parametrize(
        "trouble", ["out of memory", "slow generation", "poor pictures", "nsfw", "gpu not detected"]
    )
    def test_the_guides_troubles_are_there(self, trouble: str) -> None:
        assert any(trouble in heading.lower() for heading in headings(ROOT / "docs/runbook.md"))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
class TestPages:
    def test_links_lead_to_pages_and_headings(self, path: Path) -> None:
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            page = path.parent / name if name else path
            assert page.exists(), target
            assert not anchor or anchor in anchors(page), target

    def test_settings_that_are_named_exist(self, path: Path) -> None:
        known = {name.upper() for name in Settings.model_fields}
        foreign = {
            "HF_TOKEN", "HF_HUB_OFFLINE", "TOY_WORKERS", "SECRETS_DIR", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
            "OTEL_RESOURCE_ATTRIBUTES", "OMP_NUM_THREADS", "INCONSISTENT_GROUP_PROTOCOL", "JOB_ID", "STATIC_TOKEN",
            "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME", "HF_HOME", "RUNPOD_API_KEY",
        }  # fmt: skip
        for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", prose(path)):
            assert name in known | foreign | constants() or librdkafka_properties({name: "x"}), name

    def test_files_that_are_named_exist(self, path: Path) -> None:
        for name in named_files(prose(path)):
            assert is_file(name), name

    def test_metrics_that_are_named_exist(self, path: Path) -> None:
        known = {name for family in REGISTRY.collect() for name in (family.name, f"{family.name}_total")}
        for name in re.findall(r"\bsdxl_worker_\w+|\bimage_generation_\w+|\bkafka_consumergroup_\w+", prose(path)):
            assert name in known, name

    def test_make_targets_that_are_named_exist(self, path: Path) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        for name in re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert name in targets, name

    def test_verbs_that_are_named_exist(self, path: Path) -> None:
        known = Verbs.verbs.keys() | Verbs.developer_verbs.keys()
        for name in re.findall(r"(?:sdxl-worker|-m worker) ([a-z][a-z-]*)", path.read_text()):
            assert name in known | {"sdxl"}, name

    def test_no_document_is_named_that_is_not_here(self, path: Path) -> None:
        assert UNSEEN_DOCUMENTS.findall(path.read_text()) == []


def named_files(text: str) -> list[str]:
    """What a page names as a file or folder of the repository: in backticks, with a suffix that files here have."""
    names = re.findall(r"`([\w./-]+?\.(?:py|md|toml|ya?ml|avsc|json|jsonl|txt|sh|html|yml|env))(?::\w+)?`", text)
    folders = re.findall(r"`((?:worker|devtools|tests|docs|deploy|k8s|schemas|profiles)/[\w./-]*)`", text)
    return [
        name
        for name in dict.fromkeys([*names, *folders])
        if name not in FOREIGN_FILES and not re.search(r"^out/|\bNAME\b", name)
    ]


def is_file(name: str) -> bool:
    """Whether it is a file or folder, by its path or by the end of it."""
    return any(path == name.rstrip("/") or path.endswith(f"/{name.rstrip('/')}") for path in files())


class TestTheChecks:
    def test_a_file_that_is_gone_is_found(self) -> None:
        assert named_files("see `gone.md` and `worker/gone.py`, `docs/nowhere/` and `out/x.json`") == [
            "gone.md", "worker/gone.py", "docs/nowhere/",
        ]  # fmt: skip
        assert not any(map(is_file, ["worker/gone.py", "gone.md", "docs/nowhere/", "ledger"]))
        assert all(map(is_file, ["worker/intake/ledger.py", "ledger.py", "docs", "tests/engine/"]))

    @pytest.mark.parametrize("text", ["(facts, Kafka 12)", "DESIGN §4", "the service guide's three", "see style.md"])
    def test_a_document_that_is_not_here_is_found(self, text: str) -> None:
        assert UNSEEN_DOCUMENTS.search(text)


class TestSettingsPage:
    def test_the_page_is_up_to_date(self) -> None:
        assert settings_table.PAGE.read_text() == settings_table.page(), "run python -m devtools.settings_table"

    @pytest.mark.parametrize("name", Settings.model_fields)
    def test_every_setting_has_a_row_with_a_description(self, name: str) -> None:
        [row] = [line for line in settings_table.page().splitlines() if line.startswith(f"| `{name.upper()}` |")]
        assert len(row.split(" | ")[-1]) > 15, row

    def test_each_setting_stands_in_one_section(self) -> None:
        """The page and `.env.example` go through the sections, and would miss what stands in none of them."""
        sections = [section for section, _ in settings_table.SECTIONS.values()]
        assert [name for section in sections for name in section.model_fields] == list(Settings.model_fields)


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


class TestHooks:
    def test_the_hook_before_a_commit_runs_what_make_check_runs(self) -> None:
        [repo] = load(ROOT / ".pre-commit-config.yaml")["repos"]
        [hook] = repo["hooks"]
        assert (repo["repo"], hook["entry"], hook["language"]) == ("local", "make check", "system")
        assert hook["always_run"] is True
        assert hook["pass_filenames"] is False

    def test_the_editors_line_length_is_the_formatters(self) -> None:
        length = re.search(r"^line-length = (\d+)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert length is not None
        assert f"\nmax_line_length = {length[1]}\n" in (ROOT / ".editorconfig").read_text()
