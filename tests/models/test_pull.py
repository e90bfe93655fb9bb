"""Pull a model from a stand-in for the hub: pinned, resumed, over connections that drop, and verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from tests.models.stand_in_hub import COMMIT, REPOSITORY, Hub, serve
from worker.errors import ModelLoadError
from worker.models.fingerprint import fingerprint
from worker.models.pull import pull

pytestmark = pytest.mark.slow

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The toy's base on a hub, which the hub's client talks to without waiting between its tries."""
    with serve(Hub.of(toy / "base")) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr("worker.models.resume.LARGE_BYTES", 1_000_000)  # the toy's UNet
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        yield hub


@pytest.mark.usefixtures("hub")
def test_pulls_and_verifies_what_will_be_loaded(toy: Path, tmp_path: Path) -> None:
    (files,) = pull([REPOSITORY], half=False, cache_dir=tmp_path)
    assert files.commit == COMMIT
    assert fingerprint(REPOSITORY, dtype=torch.float32, cache_dir=tmp_path) == fingerprint(
        str(toy / "base"), dtype=torch.float32
    )


@pytest.mark.usefixtures("hub")
def test_a_pinned_revision_is_loaded_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = f"{REPOSITORY}@{COMMIT}"
    (files,) = pull([pinned], half=False, cache_dir=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (again,) = pull([pinned], half=False, cache_dir=tmp_path)
    assert again == files


@pytest.mark.usefixtures("hub")
def test_an_unknown_revision_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=f"{REPOSITORY} has no revision nightly"):
        pull([f"{REPOSITORY}@nightly"], half=False, cache_dir=tmp_path)


def test_a_connection_that_drops_once_is_survived(hub: Hub, tmp_path: Path) -> None:
    hub.drops[UNET] = [100_000]
    pull([REPOSITORY], half=False, cache_dir=tmp_path)
    assert [name for name, _ in hub.ranges] == [UNET]


def test_a_connection_that_keeps_dropping_is_one_line_and_the_next_pull_goes_on(hub: Hub, tmp_path: Path) -> None:
    # The client gives up after a number of tries without progress.
    hub.drops[UNET] = [100_000] + [0] * 20
    with pytest.raises(ModelLoadError, match="could not be downloaded") as told:
        pull([REPOSITORY], half=False, cache_dir=tmp_path)
    assert "\n" not in str(told.value)
    hub.drops.clear()
    hub.ranges.clear()
    pull([REPOSITORY], half=False, cache_dir=tmp_path)
    [(name, wanted)] = hub.ranges
    assert name == UNET
    assert int(wanted.removeprefix("bytes=").rstrip("-")) > 90_000, "what had arrived was thrown away"


@pytest.mark.parametrize("name", [UNET, "tokenizer/tokenizer.json"])
def test_a_damaged_file_is_named_and_fetched_again(hub: Hub, tmp_path: Path, name: str) -> None:
    (files,) = pull([REPOSITORY], half=False, cache_dir=tmp_path)
    blob = (files.root / name).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ModelLoadError, match=f"{name} was damaged"):
        pull([REPOSITORY], half=False, cache_dir=tmp_path)
    pull([REPOSITORY], half=False, cache_dir=tmp_path)
    assert (files.root / name).read_bytes() == hub.files[name]


@pytest.mark.usefixtures("hub")
def test_a_pull_that_was_cut_before_the_vocabulary_arrived_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files,) = pull([REPOSITORY], half=False, cache_dir=tmp_path)
    (files.root / "tokenizer/tokenizer.json").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match=r"tokenizer/vocab\.json is missing"):
        fingerprint(REPOSITORY, dtype=torch.float32, cache_dir=tmp_path)
