"""Which preset and which syntax a job gets: the request's, else the profile's, else that of the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker.errors import SettingsError
from worker.events.types import GenerationRequest, Lora
from worker.intake.admit import Arrival, admit
from worker.job import Job, Lane, Origin
from worker.presets import PRESETS
from worker.profiles import load_profiles
from worker.prompt_syntax import PromptSyntax
from worker.rule_files import read_rules
from worker.settings import Settings, load_settings

REQUEST = GenerationRequest(job_id="j", girl_id="mia", user_id=1, prompt="p", high_quality=True)


def admitted(settings: dict[str, Any], **values: Any) -> Job:
    request = replace(REQUEST, **values)
    rules = read_rules(Settings(_env_file=None, **settings))
    return admit(request, Arrival(Origin("t", 0, 0, 0), Lane.NORMAL, 0.0, {}), rules, 0.0)


def profile(folder: Path, text: str) -> dict[str, Any]:
    (folder / "mia.toml").write_text(text)
    return {"profiles_path": folder}


def sampling(job: Job) -> tuple[str, int, float, bool]:
    return job.scheduler, job.num_inference_steps, job.guidance_scale, job.high_quality


def test_without_a_preset_the_request_decides() -> None:
    job = admitted({})
    assert job.preset is None
    assert sampling(job) == ("DPMSolverMultistepScheduler", 30, 7.5, True)


def test_thirty_steps_of_a_four_step_model_are_four() -> None:
    job = admitted({"sdxl_preset": "lightning-4"}, scheduler="DDIMScheduler")
    assert sampling(job) == ("EulerDiscreteScheduler", 4, 0.0, False)


@pytest.mark.parametrize("name", PRESETS)
def test_each_can_be_named_by_setting_profile_and_request(name: str, tmp_path: Path) -> None:
    of_profile = profile(tmp_path, f'preset = "{name}"')
    for job in (admitted({"sdxl_preset": name}), admitted(of_profile), admitted({}, scheduler=name)):
        assert job.preset is PRESETS[name]


def test_the_request_comes_before_the_profile_and_the_profile_before_the_setting(tmp_path: Path) -> None:
    settings = profile(tmp_path, 'preset = "hyper-2"') | {"sdxl_preset": "turbo-1"}
    assert admitted(settings, scheduler="lcm-8").preset is PRESETS["lcm-8"]
    assert admitted(settings).preset is PRESETS["hyper-2"]
    (tmp_path / "mia.toml").write_text('preset = "none"')
    assert admitted(settings).preset is None
    (tmp_path / "mia.toml").write_text("")
    assert admitted(settings).preset is PRESETS["turbo-1"]


def test_the_lora_of_the_settings_preset_comes_with_it_alone(tmp_path: Path) -> None:
    settings = {"sdxl_preset": "lightning-4", "sdxl_preset_lora": "few", "sdxl_lora_path": tmp_path}
    assert admitted(settings).loras == (("few", 1.0),)
    assert admitted(settings, loras=(Lora(name="ink", weight=0.5),)).loras == (("few", 1.0), ("ink", 0.5))
    assert admitted(settings, loras=(Lora(name="few", weight=0.7),)).loras == (("few", 0.7),)
    assert admitted(settings, scheduler="lcm-4").loras == ()
    folder = tmp_path / "profiles"
    folder.mkdir()
    own = profile(folder, 'preset = "lcm-4"\nloras = [{ name = "lcm" }]')
    assert admitted(settings | own).loras == (("lcm", 1.0),)


def test_the_syntax_is_the_profiles_else_that_of_the_settings(tmp_path: Path) -> None:
    settings = profile(tmp_path, 'prompt_syntax = "a1111"')
    assert admitted(settings).prompt_syntax is PromptSyntax.A1111
    assert admitted(settings, girl_id="other").prompt_syntax is PromptSyntax.LITERAL
    (tmp_path / "mia.toml").write_text('prompt_syntax = "literal"')
    assert admitted(settings | {"prompt_syntax": "a1111"}).prompt_syntax is PromptSyntax.LITERAL
    assert admitted(settings | {"prompt_syntax": "A1111"}, girl_id="other").prompt_syntax is PromptSyntax.A1111


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('preset = "fast"', "preset: there is no such preset; known are none, turbo-1"),
        ('prompt_syntax = "x"', "prompt_syntax: "),
    ],
)
def test_a_wrong_profile_is_told_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    profile(tmp_path, text)
    with pytest.raises(SettingsError, match=message):
        load_profiles(tmp_path, 8, 5.0)


def test_a_profile_without_the_younger_keys_keeps_its_fingerprint(tmp_path: Path) -> None:
    # Manifests hold it: with another one, a replay could not tell whether the profile has changed.
    profile(tmp_path, 'prompt = "a lighthouse"')
    [(_, plain)] = load_profiles(tmp_path, 8, 5.0)
    assert plain.fingerprint == "51dc7dfe47dc9f02"
    profile(tmp_path, 'prompt = "a lighthouse"\npreset = "none"')
    [(_, other)] = load_profiles(tmp_path, 8, 5.0)
    assert other.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SDXL_PRESET": "fast"}, "SDXL_PRESET: there is no such preset; known are none, turbo-1"),
        ({"PROMPT_SYNTAX": "comfy"}, "PROMPT_SYNTAX: "),
        ({"SDXL_PRESET_LORA": "few"}, "SDXL_PRESET_LORA needs SDXL_PRESET and SDXL_LORA_PATH"),
        ({"SDXL_PRESET": "lcm-4", "SDXL_PRESET_LORA": "few"}, "SDXL_PRESET_LORA needs"),
    ],
)
def test_a_wrong_setting_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        load_settings()


@pytest.mark.parametrize("name", ["few", "../few", "."])
def test_a_preset_lora_that_is_no_file_is_told_at_the_start(tmp_path: Path, name: str) -> None:
    settings = Settings(_env_file=None, sdxl_preset="lcm-4", sdxl_preset_lora=name, sdxl_lora_path=tmp_path)
    (tmp_path.parent / "few.safetensors").touch()
    with pytest.raises(SettingsError, match="SDXL_PRESET_LORA: there is no file"):
        settings.check_paths()
