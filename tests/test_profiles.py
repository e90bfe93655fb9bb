"""Profiles: errors name the file and the key, and a valid profile is composed with a request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from worker.errors import ErrorCode, RequestRejected, SettingsError
from worker.events.types import GenerationRequest, Lora
from worker.intake.admit import Arrival, admit
from worker.job import AppliedProfile, Job, Lane, Origin
from worker.profiles import load_profiles
from worker.rule_files import read_rules
from worker.settings import Settings

ROOT = Path(__file__).parent.parent
FULL = """
description = "a test"
prompt = "base, "
negative_prompt = "bad"
quality = ["sharp", "bright"]
loras = [{ name = "face", weight = 0.8 }, { name = "film" }]
[[affection]]
from = 50
to = 100
prompt = "smile"
[[affection]]
from = 0
to = 49
prompt = "frown"
negative_prompt = "teeth"
[[nsfw]]
from = 10
to = 20
prompt = "swimsuit"
"""


def sdxl(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", *arguments]
    return subprocess.run(
        command, env=os.environ | {"COLUMNS": "100"} | env, capture_output=True, text=True, timeout=60
    )


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def job_of(folder: Path, girl_id: str = "mia", settings: dict[str, Any] | None = None, **values: Any) -> Job:
    fields: dict[str, Any] = {"job_id": "j", "girl_id": girl_id, "user_id": 1, "prompt": "reading"}
    request = GenerationRequest(**(fields | values))
    arrival = Arrival(Origin("t", 0, 0, 0), Lane.NORMAL, 1.0, {})
    return admit(request, arrival, read_rules(Settings(_env_file=None, profiles_path=folder, **(settings or {}))), 1.0)


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("promt = 'x'", "promt", "no such key"),
        ("prompt = 5", "prompt", "string"),
        ("quality = 'sharp'", "quality", "tuple"),
        ("prompt = ", "", "value"),
        ("loras = [{ name = '../face' }]", r"loras\.0\.name", "path"),
        ("loras = [{ name = '/models/face.safetensors' }]", r"loras\.0\.name", "path"),
        ("loras = [{ name = 'a', weight = inf }]", r"loras\.0\.weight", "finite"),
        ("loras = [{ name = 'a', weight = 9 }]", r"loras\.0\.weight", "MAX_LORA_WEIGHT"),
        ("loras = [{ name = 'a', weight = '1' }]", r"loras\.0\.weight", "number"),
        ("loras = [{ name = 'a' }, { name = 'a' }]", "loras", "twice"),
        ("loras = [{ weight = 1 }]", r"loras\.0\.name", "required"),
        ("loras = [{name='a'},{name='b'},{name='c'},{name='d'},{name='e'},{name='f'},{name='g'},{name='h'},{name='i'}]",
         "loras", "MAX_LORAS"),
        ("affection = [{ from = 0, to = 50, prompt = 'a' }, { from = 50, to = 100, prompt = 'b' }]",
         "affection", "from 0 to 50 and from 50 to 100 overlap"),
        ("nsfw = [{ from = 20, to = 30, prompt = 'a' }, { from = 0, to = 100, prompt = 'b' }]", "nsfw", "overlap"),
        ("nsfw = [{ from = 30, to = 20, prompt = 'a' }]", r"nsfw\.0", "from 30 to 20 is empty"),
        ("nsfw = [{ from = 0, to = 101, prompt = 'a' }]", r"nsfw\.0\.to", "100"),
        ("nsfw = [{ from = 0, to = 1.5, prompt = 'a' }]", r"nsfw\.0\.to", "integer"),
        ("nsfw = [{ from = true, to = 1, prompt = 'a' }]", r"nsfw\.0\.from", "integer"),
        ("nsfw = [{ from = 0, to = 10 }]", r"nsfw\.0", "neither"),
        ("nsfw = [{ from = 0, to = 10, prompt = ' , ' }]", r"nsfw\.0", "neither"),
        ("nsfw = [{ from = 0, prompt = 'a' }]", r"nsfw\.0\.to", "required"),
        ("nsfw = [{ from = 0, to = 10, prompt = 'a', lora = 'b' }]", r"nsfw\.0\.lora", "no such key"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_by_file_and_key(tmp_path: Path, text: str, key: str, why: str) -> None:
    with pytest.raises(SettingsError, match=rf"mia\.toml: {key}.*{why}"):
        load_profiles(write(tmp_path, mia=text, fine="prompt = 'x'"), 8, 5.0)


def test_a_file_that_is_no_profile_stops_the_start_too(tmp_path: Path) -> None:
    (tmp_path / "mia.toml").write_bytes(b"prompt = '\xff'")
    with pytest.raises(SettingsError, match=r"mia\.toml"):
        read_rules(Settings(_env_file=None, profiles_path=tmp_path))
    (tmp_path / "mia.toml").rename(tmp_path / "mi a.toml")
    with pytest.raises(SettingsError, match=r"mi a\.toml: the file name"):
        load_profiles(tmp_path, 8, 5.0)
    with pytest.raises(SettingsError, match=r"PROFILES_PATH: .* no profile"):
        load_profiles(tmp_path.parent, 8, 5.0)
    with pytest.raises(SettingsError, match=r"PROFILES_PATH: .* not a readable folder"):
        load_profiles(tmp_path / "gone", 8, 5.0)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"a\.toml: x: .*; .*b\.toml: y: .*; z: "):
        load_profiles(write(tmp_path, a="x = 1", b="y = 1\nz = 2"), 8, 5.0)


def test_the_parts_come_in_their_order(tmp_path: Path) -> None:
    folder = write(tmp_path, mia=FULL)
    job = job_of(folder, affection_level=50, nsfw_level=10, negative_prompt="fog, ")
    assert job.prompt == "base, reading, smile, swimsuit, sharp, bright"
    assert job.negative_prompt == "bad, fog"
    assert job.loras == (("face", 0.8), ("film", 1.0))
    assert job.profile == AppliedProfile("mia", load_profiles(folder, 8, 5.0).of("mia")[1].fingerprint)  # type: ignore[index]
    assert job.request.prompt == "reading"


@pytest.mark.parametrize(
    ("affection", "nsfw", "prompt", "negative"),
    [
        (0, 0, "base, reading, frown, sharp, bright", "bad, teeth"),
        (49, 9, "base, reading, frown, sharp, bright", "bad, teeth"),
        (100, 20, "base, reading, smile, swimsuit, sharp, bright", "bad"),
        (100, 21, "base, reading, smile, sharp, bright", "bad"),
    ],
)
def test_levels_choose_fragments_and_gaps_add_nothing(
    tmp_path: Path, affection: int, nsfw: int, prompt: str, negative: str
) -> None:
    job = job_of(write(tmp_path, mia=FULL), affection_level=affection, nsfw_level=nsfw)
    assert (job.prompt, job.negative_prompt) == (prompt, negative)


def test_the_girls_own_profile_then_the_default_then_none(tmp_path: Path) -> None:
    folder = write(tmp_path, mia="prompt = 'mia'")
    other = job_of(folder, "zoe", prompt=" as it, is, ")
    assert (other.profile, other.prompt, other.negative_prompt) == (None, " as it, is, ", None)
    (tmp_path / "more").mkdir()
    folder = write(tmp_path / "more", mia="prompt = 'mia'", default="prompt = 'anyone'")
    assert job_of(folder, "zoe").prompt == "anyone, reading"
    assert job_of(folder, "MIA").prompt == "anyone, reading"
    assert job_of(folder, "mia").prompt == "mia, reading"
    assert job_of(folder, "default").prompt == "anyone, reading"


def test_the_requests_weight_wins_and_its_other_loras_come_after(tmp_path: Path) -> None:
    loras = (Lora(name="ink", weight=0.3), Lora(name="film", weight=0.0))
    assert job_of(write(tmp_path, mia=FULL), loras=loras).loras == (("face", 0.8), ("film", 0.0), ("ink", 0.3))


def test_too_many_loras_together_are_refused(tmp_path: Path) -> None:
    loras = tuple(Lora(name=f"l{i}") for i in range(2))
    with pytest.raises(RequestRejected, match="loras has 4 entries with the profile's; at most 3"):
        job_of(write(tmp_path, mia=FULL), settings={"max_loras": 3}, loras=loras)


def test_the_default_lora_is_for_those_that_have_none(tmp_path: Path) -> None:
    house = {"sdxl_lora_path": Path("loras/house.safetensors")}
    folder = write(tmp_path, mia=FULL, zoe="prompt = 'zoe'")
    assert job_of(folder, "zoe", house).loras == (("house", 1.0),)
    assert job_of(folder, "mia", house).loras == (("face", 0.8), ("film", 1.0))


@pytest.mark.parametrize(
    ("profile", "request_negative", "negative"),
    [("", None, None), ("", "", ""), ("negative_prompt = ''", None, ""), ("negative_prompt = 'a'", "", "a")],
)
def test_a_null_negative_prompt_stays_null_while_nobody_says_otherwise(
    tmp_path: Path, profile: str, request_negative: str | None, negative: str | None
) -> None:
    assert job_of(write(tmp_path, mia=profile), negative_prompt=request_negative).negative_prompt == negative


def test_the_rules_look_at_the_composed_prompt(tmp_path: Path) -> None:
    folder = write(tmp_path, mia="prompt = '15 years old'")
    assert job_of(folder).prompt
    with pytest.raises(RequestRejected) as caught:
        job_of(folder, nsfw_level=1)
    assert caught.value.code is ErrorCode.CONTENT_REJECTED


def test_the_fingerprint_is_of_what_is_said(tmp_path: Path) -> None:
    def fingerprint(name: str, text: str) -> str:
        (tmp_path / name).mkdir()
        found = load_profiles(write(tmp_path / name, mia=text), 8, 5.0).of("mia")
        assert found
        return found[1].fingerprint

    first = fingerprint("a", FULL)
    assert fingerprint("b", "# a remark\n" + FULL.replace('"a test"', '"another"')) == first
    assert fingerprint("c", FULL.replace("smile", "grin")) != first
    assert fingerprint("d", FULL.replace("0.8", "0.7")) != first
    assert fingerprint("e", FULL.replace("from = 50", "from = 51")) != first


@given(st.integers(0, 100), st.integers(0, 100), st.text(min_size=1).filter(str.strip), st.none() | st.text())
def test_any_request_of_a_profile_keeps_its_own_words(
    affection: int, nsfw: int, prompt: str, negative: str | None
) -> None:
    try:
        job = job_of(
            ROOT / "profiles",
            "luna",
            prompt=prompt,
            negative_prompt=negative,
            affection_level=affection,
            nsfw_level=nsfw,
        )
    except RequestRejected:
        reject()
    assert prompt.strip(", \t\r\n") in job.prompt
    assert (negative or "").strip(", \t\r\n") in (job.negative_prompt or "")


def test_the_shipped_profiles_pass_the_check() -> None:
    done = sdxl("profiles", "check", str(ROOT / "profiles"), "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["name"] for line in lines] == ["default", "luna", "mara"]
    assert all(line["problems"] == [] for line in lines)


def test_the_check_tells_what_would_fail_later(tmp_path: Path) -> None:
    folder = write(tmp_path, mia=FULL, zoe="[[nsfw]]\nfrom = 1\nto = 2\nprompt = 'schoolgirl'")
    done = sdxl("profiles", "check", str(folder), SDXL_LORA_PATH=str(tmp_path))
    assert done.returncode == 1
    assert "mia.toml: loras.0.name:" in done.stderr
    assert "zoe.toml: nsfw.0.prompt: it points at a minor" in done.stderr
    assert "schoolgirl" not in done.stderr


def test_the_check_of_a_wrong_file_names_it(tmp_path: Path) -> None:
    done = sdxl("profiles", "check", PROFILES_PATH=str(write(tmp_path, mia="promt = 'x'")))
    assert done.returncode == 2
    assert "mia.toml: promt: there is no such key" in done.stderr


def test_the_worker_does_not_start_with_a_wrong_one(tmp_path: Path) -> None:
    folder = write(tmp_path, mia="loras = [{ name = '../x' }]")
    done = sdxl("run", PROFILES_PATH=str(folder), HTTP_PORT="0", AWS_S3_BUCKET="pictures")
    assert done.returncode == 2
    assert "mia.toml: loras.0.name: a LoRA is named by its file" in done.stderr


@pytest.mark.slow
def test_the_preview_is_what_would_be_drawn(tmp_path: Path) -> None:
    folder = write(tmp_path, mia=FULL)
    arguments = ("profiles", "preview", "mia", "--prompt", "reading", "--affection", "60", "--nsfw-level", "12")
    done = sdxl(*arguments, "--json", PROFILES_PATH=str(folder))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["prompt"] == "base, reading, smile, swimsuit, sharp, bright"
    assert shown["loras"] == {"face": 0.8, "film": 1.0}
    assert shown["profile"] == "mia"
    assert "smile" in sdxl(*arguments, PROFILES_PATH=str(folder)).stdout
    refused = sdxl(*arguments, "--negative-prompt", "x" * 9000, PROFILES_PATH=str(folder))
    assert (refused.returncode, "invalid_request" in refused.stderr) == (1, True)
