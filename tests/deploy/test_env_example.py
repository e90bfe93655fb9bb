"""`.env.example` names every setting with its default, and is a valid `.env` with every line switched on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devtools import env_example
from worker.settings import Settings, librdkafka_properties

TEXT = env_example.FILE.read_text()
ASSIGNMENTS = re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", TEXT, re.MULTILINE)


def test_it_is_what_the_script_writes() -> None:
    assert env_example.text() == TEXT, "run python -m devtools.env_example"


def test_it_names_every_setting_once_and_nothing_else() -> None:
    names = [name for name, _ in ASSIGNMENTS]
    assert len(names) == len(set(names))
    others = set(names) - {name.upper() for name in Settings.model_fields}
    assert {name.upper() for name in Settings.model_fields} <= set(names)
    assert all(librdkafka_properties({name: "x"}) for name in others)


def test_a_copy_as_it_is_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(TEXT)
    assert Settings() == Settings(_env_file=None)


def test_every_default_that_is_shown_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{name}={value}" for name, value in ASSIGNMENTS if name.lower() in Settings.model_fields]
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    (tmp_path / ".env").write_text("\n".join(lines))
    found = Settings()
    assert found == Settings(_env_file=None)
    # A default that is left out would pass as well.
    shown = {name for name, value in ASSIGNMENTS if value}
    for name, field in Settings.model_fields.items():
        has_one = field.default not in (None, "", {}) and field.default_factory is None
        assert (name.upper() in shown) == has_one, name


def test_each_says_what_it_is() -> None:
    for name in Settings.model_fields:
        assert re.search(rf"^# .+\n#{name.upper()}=", TEXT, re.MULTILINE), name


def test_no_line_holds_a_secret() -> None:
    secrets = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    assert len(secrets) > 5
    assert all(value == "" for name, value in ASSIGNMENTS if name.lower() in secrets or "PASSWORD" in name)
