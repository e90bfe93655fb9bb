"""LoRA files: which are accepted, which are rejected, and the messages."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.lora_files import (
    refused,
    write_kohya,
    write_peft,
)
from worker.engine.lora.cache import LoraCache
from worker.models.fingerprint import FINGERPRINT_HEX_DIGITS, digest_of


def test_a_pickle_is_not_opened(folder: Path, lora_cache: LoraCache, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    (folder / "bad.safetensors").write_bytes(pickle.dumps(_Trap(trap)))
    refused(lora_cache, "bad", "not safetensors")
    assert not trap.exists()


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_damaged_files_are_refused(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    write_peft(folder / "good.safetensors", base)
    data = (folder / "good.safetensors").read_bytes()
    for name, damaged in {"cut": data[:-100], "stub": data[:5], "empty": b"", "length": b"\xff" * 8 + data[8:]}.items():
        (folder / f"{name}.safetensors").write_bytes(damaged)
        refused(lora_cache, name, "damaged or not safetensors")
    save_file({}, folder / "nothing.safetensors")
    refused(lora_cache, "nothing", "is empty")


def test_a_file_made_for_another_model_is_refused_by_its_first_key(
    base: Any, folder: Path, lora_cache: LoraCache
) -> None:
    good = write_peft(folder / "good.safetensors", base)
    to_q = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    conv = "unet.conv_in"
    cases: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
        "width": ({f"{to_q}.lora_A.weight": torch.ones(4, 640)}, f"{to_q}.lora_A.weight"),
        "rank": ({f"{to_q}.lora_B.weight": torch.ones(64, 5)}, f"{to_q}.lora_A.weight"),
        "kernel": ({f"{conv}.lora_A.weight": torch.ones(4, 4, 1, 1)}, f"{conv}.lora_A.weight"),
        "flat": ({f"{conv}.lora_A.weight": torch.ones(4, 4)}, f"{conv}.lora_A.weight"),
        "scalar": ({f"{to_q}.lora_A.weight": torch.tensor(1.0)}, f"{to_q}.lora_A.weight"),
        "half": ({f"{to_q}.lora_B.weight": None}, f"{to_q}.lora_A.weight"),
        "other half": ({f"{to_q}.lora_A.weight": None}, f"{to_q}.lora_B.weight"),
        "module": (_pair("unet.down_blocks.7.to_q"), "unet.down_blocks.7.to_q.lora_A.weight"),
        "norm": (_pair("unet.conv_norm_out"), "unet.conv_norm_out.lora_A.weight"),
        "component": (_pair("transformer.x"), "transformer.x.lora_A.weight"),
        "bare": (_pair("conv_in"), "conv_in.lora_A.weight"),
        "bias": ({f"{to_q}.lora_B.bias": torch.ones(64)}, f"{to_q}.lora_B.bias"),
        "dora": ({f"{to_q}.lora_magnitude_vector": torch.ones(65)}, "lora_magnitude_vector"),
        "nan": ({f"{to_q}.lora_A.weight": torch.full((4, 64), torch.nan)}, "finite"),
        "whole": ({f"{to_q}.lora_A.weight": torch.ones(4, 64, dtype=torch.int32)}, "finite"),
    }
    for name, (changes, said) in cases.items():
        save_file({k: v for k, v in {**good, **changes}.items() if v is not None}, folder / f"{name}.safetensors")
        refused(lora_cache, name, said)


def test_a_kohya_file_that_does_not_fit_is_refused_by_its_first_key(
    base: Any, folder: Path, lora_cache: LoraCache
) -> None:
    good = write_kohya(folder / "good.safetensors", base)
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    cases: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
        "lokr": ({f"{stem}.lokr_w1": torch.ones(2, 2)}, f"{stem} has parts of several kinds"),
        "dora": ({f"{stem}.dora_scale": torch.ones(65)}, f"{stem}.dora_scale is made for another model"),
        "half": ({f"{stem}.lora_up.weight": None}, f"{stem}.lora_down.weight lacks its other half"),
        "width": ({f"{stem}.lora_down.weight": torch.ones(4, 640)}, "made for another model: shapes"),
        "vector alpha": ({f"{stem}.alpha": torch.ones(2)}, f"{stem}.alpha is not one number"),
        "endless alpha": ({f"{stem}.alpha": torch.tensor(torch.inf)}, f"{stem}.alpha"),
        "only alpha": (
            {f"{stem}.{part}": None for part in ("lora_up.weight", "lora_down.weight")},
            f"{stem}.alpha is an alpha of nothing",
        ),
        "unknown": ({f"{stem}.lora_side.weight": torch.ones(2)}, f"{stem}.lora_side.weight has an unknown layout"),
        "module": (
            {"lora_unet_nowhere.lora_down.weight": torch.ones(4, 4), "lora_unet_nowhere.lora_up.weight": torch.ones(4)},
            "nowhere",
        ),
    }
    for name, (changes, said) in cases.items():
        save_file({k: v for k, v in {**good, **changes}.items() if v is not None}, folder / f"{name}.safetensors")
        refused(lora_cache, name, said)
    sgm = {k.replace("mid_block", "middle_block_9"): v for k, v in good.items() if "mid_block" in k}
    save_file(sgm, folder / "middle.safetensors")
    refused(lora_cache, "middle", "does not name a layer of this model (nor does 1 other; 0 layers are found)")


@pytest.mark.parametrize("metadata", ["[]", "{", '{"unet.lora_alpha": "x"}', '{"unet.alpha_pattern": 3}'])
def test_nonsense_in_the_metadata_is_refused(base: Any, folder: Path, lora_cache: LoraCache, metadata: str) -> None:
    tensors = write_peft(folder / "a.safetensors", base)
    save_file(tensors, folder / "a.safetensors", metadata={"lora_adapter_metadata": metadata})
    refused(lora_cache, "a", "cannot convert")


def test_nothing_outside_the_folder_is_read(base: Any, folder: Path, lora_cache: LoraCache, tmp_path: Path) -> None:
    write_peft(tmp_path / "secret.safetensors", base)
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    (folder / "folder.safetensors").mkdir()
    for name in ("../secret", str(tmp_path / "secret"), "up/secret", "link"):
        refused(lora_cache, name, "outside the LoRA folder")
    for name in ("absent", "loop", "nul\0byte", "x" * 5000):
        refused(lora_cache, name, "no readable")
    refused(lora_cache, "folder", "regular file")
    refused(LoraCache(base, None, 8), "any", "SDXL_LORA_PATH")
    refused(LoraCache(base, tmp_path / "gone", 8), "any", "no readable")


def test_the_suffix_may_be_in_capitals(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    write_peft(folder / "v1.2.SAFETENSORS", base, seed=1)
    refused(lora_cache, "v1", "no readable v1.safetensors")
    lora_cache.check([("v1.2", 1.0)])
    write_peft(folder / "v1.2.safetensors", base, seed=2)
    lora_cache.check([("v1.2", 1.0)])
    assert lora_cache.fingerprints([("v1.2", 1.0)]) == {
        "v1.2": digest_of(folder / "v1.2.safetensors")[:FINGERPRINT_HEX_DIGITS]
    }, "small letters come first"


def test_links_inside_the_folder_are_followed(base: Any, folder: Path, lora_cache: LoraCache) -> None:
    (folder / "..data").mkdir()
    write_peft(folder / "..data" / "a.safetensors", base)
    (folder / "a.safetensors").symlink_to("..data/a.safetensors")
    lora_cache.check([("a", 1.0)])


def _pair(module: str) -> dict[str, torch.Tensor | None]:
    return {f"{module}.lora_A.weight": torch.ones(4, 32), f"{module}.lora_B.weight": torch.ones(32, 4)}
