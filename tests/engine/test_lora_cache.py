"""The LoRA cache: which LoRAs stay loaded, and when a file is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.lora_files import (
    refused,
    write_peft,
)
from worker.engine.lora.cache import Adapters
from worker.errors import RequestRejected
from worker.models.fingerprint import FINGERPRINT_HEX_DIGITS, digest_of


def test_the_least_recently_used_leave_first(base: Any, folder: Path) -> None:
    adapters = Adapters(base, folder, capacity=2)
    for name in "abc":
        write_peft(folder / f"{name}.safetensors", base)
    for name in "abac":
        _use(adapters, name)
    assert list(adapters._cache) == ["a", "c"]
    assert adapters.loaded == 2


def test_adapters_in_use_stay_and_the_bound_gives_way(
    base: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = Adapters(base, folder, capacity=1)
    for name in "abc":
        write_peft(folder / f"{name}.safetensors", base)
        adapters.acquire([(name, 1.0)])
    assert adapters.loaded == 3
    adapters.free()
    assert adapters.loaded == 3
    assert capsys.readouterr().out.count("loras_over_capacity") == 1
    for name in "abc":
        adapters.release([(name, 1.0)])
    assert list(adapters._cache) == ["c"]
    adapters.free()
    assert adapters.loaded == 0


def test_a_shared_adapter_stays_until_its_last_row_has_ended(base: Any, folder: Path) -> None:
    adapters = Adapters(base, folder, capacity=0)
    write_peft(folder / "a.safetensors", base)
    loras = [("a", 1.0)]
    adapters.acquire(loras)
    adapters.acquire(loras)
    adapters.release(loras)
    assert adapters.loaded == 1
    adapters.release(loras)
    assert adapters.loaded == 0


def test_acquiring_a_set_of_which_one_is_missing_keeps_none(base: Any, folder: Path) -> None:
    adapters = Adapters(base, folder, capacity=0)
    write_peft(folder / "a.safetensors", base)
    with pytest.raises(RequestRejected):
        adapters.acquire([("a", 1.0), ("missing", 1.0)])
    assert adapters.loaded == 0


def test_a_failed_allocation_keeps_none_and_can_be_tried_again(
    base: Any, folder: Path, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_peft(folder / "a.safetensors", base)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(adapters, "_place", fail)
        with pytest.raises(torch.OutOfMemoryError):
            adapters.acquire([("a", 1.0)])
    adapters.free()
    assert adapters.loaded == 0
    adapters.acquire([("a", 1.0)])


def test_a_changed_file_is_read_again_when_no_row_uses_it(base: Any, folder: Path, adapters: Adapters) -> None:
    path, loras = folder / "a.safetensors", [("a", 1.0)]
    write_peft(path, base, seed=1)
    adapters.acquire(loras)
    before = adapters.fingerprints(loras)
    assert before == {"a": digest_of(path)[:FINGERPRINT_HEX_DIGITS]}
    write_peft(path, base, seed=2, rank=5)
    adapters.check(loras)
    adapters.acquire(loras)
    assert adapters.fingerprints(loras) == before, "rows in work keep what they began with"
    adapters.release(loras)
    adapters.release(loras)
    adapters.check(loras)
    assert adapters.fingerprints(loras) == {"a": digest_of(path)[:FINGERPRINT_HEX_DIGITS]} != before
    path.write_bytes(b"broken")
    refused(adapters, "a", "damaged")


def test_a_checked_file_is_not_read_again(
    base: Any, folder: Path, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_peft(folder / "a.safetensors", base)
    adapters.check([("a", 1.0)])
    adapters.free()
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read again"))
    adapters.check([("a", 0.5)])
    assert adapters.fingerprints([("a", 1.0)]).keys() == {"a"}


def _use(adapters: Adapters, name: str) -> None:
    adapters.acquire([(name, 1.0)])
    adapters.release([(name, 1.0)])
