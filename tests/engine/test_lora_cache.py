"""The LoRA cache: which LoRAs stay loaded, and when a file is read again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.lora_files import (
    refused,
    write_peft,
)
from worker.engine.lora.cache import LoraCache
from worker.errors import RequestRejected
from worker.models.fingerprint import FINGERPRINT_HEX_DIGITS, digest_of


def test_the_least_recently_used_leave_first(base: Any, folder: Path) -> None:
    lora_cache = LoraCache(base, folder, capacity=2)
    for name in "abc":
        write_peft(folder / f"{name}.safetensors", base)
    for name in "abac":
        _use(lora_cache, name)
    assert list(lora_cache._cache) == ["a", "c"]
    assert lora_cache.loaded == 2


def test_adapters_in_use_stay_and_the_bound_gives_way(
    base: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora_cache = LoraCache(base, folder, capacity=1)
    for name in "abc":
        write_peft(folder / f"{name}.safetensors", base)
        lora_cache.acquire([(name, 1.0)])
    assert lora_cache.loaded == 3
    lora_cache.free()
    assert lora_cache.loaded == 3
    assert capsys.readouterr().out.count("loras_over_capacity") == 1
    for name in "abc":
        lora_cache.release([(name, 1.0)])
    assert list(lora_cache._cache) == ["c"]
    lora_cache.free()
    assert lora_cache.loaded == 0


def test_a_shared_adapter_stays_until_its_last_row_has_ended(base: Any, folder: Path) -> None:
    lora_cache = LoraCache(base, folder, capacity=0)
    write_peft(folder / "a.safetensors", base)
    loras = [("a", 1.0)]
    lora_cache.acquire(loras)
    lora_cache.acquire(loras)
    lora_cache.release(loras)
    assert lora_cache.loaded == 1
    lora_cache.release(loras)
    assert lora_cache.loaded == 0


def test_acquiring_a_set_of_which_one_is_missing_keeps_none(base: Any, folder: Path) -> None:
    lora_cache = LoraCache(base, folder, capacity=0)
    write_peft(folder / "a.safetensors", base)
    with pytest.raises(RequestRejected):
        lora_cache.acquire([("a", 1.0), ("missing", 1.0)])
    assert lora_cache.loaded == 0


def test_a_failed_allocation_keeps_none_and_can_be_tried_again(
    base: Any, folder: Path, lora_cache: LoraCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_peft(folder / "a.safetensors", base)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(lora_cache, "_place", fail)
        with pytest.raises(torch.OutOfMemoryError):
            lora_cache.acquire([("a", 1.0)])
    lora_cache.free()
    assert lora_cache.loaded == 0
    lora_cache.acquire([("a", 1.0)])


def test_a_changed_file_is_read_again_when_no_row_uses_it(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    path, loras = folder / "a.safetensors", [("a", 1.0)]
    write_peft(path, base, seed=1)
    lora_cache.acquire(loras)
    before = lora_cache.fingerprints(loras)
    assert before == {"a": digest_of(path)[:FINGERPRINT_HEX_DIGITS]}
    write_peft(path, base, seed=2, rank=5)
    lora_cache.check(loras)
    lora_cache.acquire(loras)
    assert lora_cache.fingerprints(loras) == before, "rows in work keep what they began with"
    lora_cache.release(loras)
    lora_cache.release(loras)
    lora_cache.check(loras)
    assert lora_cache.fingerprints(loras) == {"a": digest_of(path)[:FINGERPRINT_HEX_DIGITS]} != before
    path.write_bytes(b"broken")
    refused(lora_cache, "a", "damaged")


def test_a_replaced_file_is_noticed_whatever_its_clock_says(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    path, other, loras = folder / "a.safetensors", folder / "other", [("a", 1.0)]
    write_peft(path, base, seed=1)
    write_peft(other, base, seed=2)
    before, first = path.stat(), path.read_bytes()
    lora_cache.check(loras)
    known = lora_cache.fingerprints(loras)
    for replace in (lambda: path.write_bytes(other.read_bytes()), lambda: other.rename(path)):
        replace()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert path.stat().st_size == before.st_size
        lora_cache.check(loras)
        assert lora_cache.fingerprints(loras) == {"a": digest_of(path)[:FINGERPRINT_HEX_DIGITS]} != known
        path.write_bytes(first)
        lora_cache.check(loras)
        assert lora_cache.fingerprints(loras) == known


def test_a_checked_file_is_not_read_again(
    base: Any, folder: Path, lora_cache: LoraCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_peft(folder / "a.safetensors", base)
    lora_cache.check([("a", 1.0)])
    lora_cache.free()
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read again"))
    lora_cache.check([("a", 0.5)])
    assert lora_cache.fingerprints([("a", 1.0)]).keys() == {"a"}


def _use(lora_cache: LoraCache, name: str) -> None:
    lora_cache.acquire([(name, 1.0)])
    lora_cache.release([(name, 1.0)])
