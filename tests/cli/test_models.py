"""`models pull` on a new volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import worker.models.pull
from worker.cli.models import pull
from worker.errors import SettingsError
from worker.settings import load_settings


@pytest.fixture(autouse=True)
def nothing_to_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_models(*_: Any, **__: Any) -> list[Any]:
        return []

    monkeypatch.setattr(worker.models.pull, "pull", no_models)


def test_it_makes_the_folder_of_loras_so_that_a_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models/lora"
    monkeypatch.setenv("SDXL_LORA_PATH", str(folder))
    with pytest.raises(SettingsError, match="is no folder"):
        load_settings().check_paths()
    pull()
    load_settings().check_paths()
    assert str(folder) in capsys.readouterr().err
    pull()
    assert not capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").write_text("a file")
    monkeypatch.setenv("SDXL_LORA_PATH", str(tmp_path / "models/lora"))
    with pytest.raises(SettingsError, match=r"SDXL_LORA_PATH: the folder .* cannot be made"):
        pull()
