"""Load models from folders, from single files, and while the hub does not answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from huggingface_hub import DryRunFileInfo
from huggingface_hub.errors import DryRunError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from devtools.models.single_file import write_single_file
from worker.errors import ModelLoadError, SettingsError
from worker.models.fingerprint import fingerprint, sha256
from worker.models.load import load_base, load_refiner, resolve_device, resolve_dtype
from worker.models.pull import locate, pull, select_files

FP32 = torch.float32
WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def base(toy: Path) -> StableDiffusionXLPipeline:
    return load_base(str(toy / "base"), dtype=FP32, device="cpu")


@pytest.fixture
def copy(toy: Path, tmp_path: Path) -> Path:
    """The toy's base, to be damaged."""
    return Path(shutil.copytree(toy / "base", tmp_path / "model"))


class TestPipelines:
    def test_base_is_ready_to_be_taken_apart(self, base: StableDiffusionXLPipeline) -> None:
        for name in WEIGHTS:
            part = getattr(base, name)
            assert not part.training
            assert not any(parameter.requires_grad for parameter in part.parameters())
        assert base.watermark is None

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_dtype_reaches_every_part(self, toy: Path, dtype: torch.dtype) -> None:
        pipeline = load_base(str(toy / "base"), dtype=dtype, device="cpu", channels_last=True)
        assert {p.dtype for name in WEIGHTS for p in getattr(pipeline, name).parameters()} == {dtype}

    def test_refiner_shares_what_is_equal(self, toy: Path, base: StableDiffusionXLPipeline) -> None:
        refiner = load_refiner(str(toy / "refiner"), dtype=FP32, device="cpu", share=base)
        assert refiner.text_encoder_2 is base.text_encoder_2
        assert refiner.vae is base.vae
        assert refiner.unet is not base.unet

    def test_refiner_keeps_what_differs(self, toy: Path) -> None:
        base = load_base(str(toy / "base"), dtype=FP32, device="cpu")
        base.vae.decoder.conv_out.bias.data[0] += 1
        refiner = load_refiner(str(toy / "refiner"), dtype=FP32, device="cpu", share=base)
        assert refiner.text_encoder_2 is base.text_encoder_2
        assert refiner.vae is not base.vae

    def test_base_and_refiner_are_not_confused(self, toy: Path) -> None:
        with pytest.raises(ModelLoadError, match="not an SDXL base"):
            load_base(str(toy / "refiner"), dtype=FP32, device="cpu")
        with pytest.raises(ModelLoadError, match="not an SDXL refiner"):
            load_refiner(str(toy / "base"), dtype=FP32, device="cpu")


class TestSingleFile:
    def test_base_has_the_same_weights_as_its_folder(
        self, toy: Path, base: StableDiffusionXLPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("socket.socket.connect", _no_network)
        file = tmp_path / "any-name.safetensors"
        write_single_file(toy / "base", file)
        loaded = load_base(str(file), dtype=FP32, device="cpu", single_file_config=toy / "base")
        for name in WEIGHTS:
            _assert_equal(getattr(loaded, name), getattr(base, name))
        assert loaded.tokenizer_2.pad_token == "!"

    def test_config_folder_is_found_beside_the_file(self, toy: Path, tmp_path: Path) -> None:
        shutil.copytree(toy / "refiner", tmp_path / "refiner", ignore=shutil.ignore_patterns("*.safetensors"))
        write_single_file(toy / "refiner", tmp_path / "refiner.safetensors")
        loaded = load_refiner(str(tmp_path / "refiner.safetensors"), dtype=FP32, device="cpu")
        expected = load_refiner(str(toy / "refiner"), dtype=FP32, device="cpu")
        for name in ("unet", "vae", "text_encoder_2"):
            _assert_equal(getattr(loaded, name), getattr(expected, name))
        assert loaded.config.requires_aesthetics_score

    def test_cut_short_is_one_clear_error(self, toy: Path, tmp_path: Path) -> None:
        file = tmp_path / "cut.safetensors"
        write_single_file(toy / "base", file)
        file.write_bytes(file.read_bytes()[: 2**20])
        with pytest.raises(ModelLoadError, match=r"cut\.safetensors is cut short"):
            load_base(str(file), dtype=FP32, device="cpu", single_file_config=toy / "base")


class TestRefusals:
    @pytest.mark.parametrize("name", ["m.ckpt", "m.bin", "m.pt"])
    def test_pickle(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"\x80\x04.")
        with pytest.raises(ModelLoadError, match="pickle"):
            load_base(str(tmp_path / name), dtype=FP32, device="cpu")

    def test_pickle_inside_a_folder(self, copy: Path) -> None:
        weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
        with pytest.raises(ModelLoadError, match=r"no \.safetensors weights for unet"):
            load_base(str(copy), dtype=FP32, device="cpu")

    @pytest.mark.parametrize("missing", ["/no/such/folder", "./no/such/folder", "no/such/file.safetensors"])
    def test_missing(self, missing: str) -> None:
        with pytest.raises(ModelLoadError, match="no such file or folder"):
            load_base(missing, dtype=FP32, device="cpu")

    def test_folder_without_an_index(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"model_index\.json"):
            load_base(str(tmp_path), dtype=FP32, device="cpu")

    def test_damaged_index(self, copy: Path) -> None:
        (copy / "model_index.json").write_text("{")
        with pytest.raises(ModelLoadError, match="cannot be read"):
            load_base(str(copy), dtype=FP32, device="cpu")

    def test_another_architecture(self, copy: Path) -> None:
        config = copy / "unet" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"addition_embed_type": None}))
        with pytest.raises(ModelLoadError, match="not an SDXL"):
            load_base(str(copy), dtype=FP32, device="cpu")


class TestHub:
    def test_unreachable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("socket.socket.connect", _no_network)
        with pytest.raises(ModelLoadError, match="someone/some-model is not on this machine"):
            pull(["someone/some-model"], half=True, cache_dir=tmp_path)

    def test_fetches_exactly_what_will_be_loaded(
        self, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub = FakeHub(toy / "base", tmp_path)
        monkeypatch.setattr("worker.models.hub.snapshot_download", hub.snapshot_download)
        (files,) = pull(["someone/some-model"], half=True)
        assert files.root == tmp_path
        assert {path.parent.name for path in files.weights} == set(WEIGHTS)
        assert set(hub.fetched) == {p.relative_to(toy / "base").as_posix() for p in (toy / "base").rglob("*.*")}

    @pytest.mark.parametrize(
        ("refusal", "advice"), [(GatedRepoError, "accept its licence"), (RepositoryNotFoundError, "HF_TOKEN")]
    )
    def test_refused(self, monkeypatch: pytest.MonkeyPatch, refusal: type[HfHubHTTPError], advice: str) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise DryRunError("no") from refusal("no", response=MagicMock())

        monkeypatch.setattr("worker.models.hub.snapshot_download", refuse)
        with pytest.raises(ModelLoadError, match=advice):
            load_base("someone/some-model", dtype=FP32, device="cpu")

    def test_cached_snapshot_serves_while_the_hub_is_down(
        self, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("socket.socket.connect", _no_network)
        commit = "0" * 40
        repository = tmp_path / "models--someone--some-model"
        shutil.copytree(toy / "base", repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        load_base("someone/some-model", dtype=FP32, device="cpu", cache_dir=tmp_path)
        same = fingerprint("someone/some-model", dtype=FP32, cache_dir=tmp_path)
        assert same == fingerprint(str(toy / "base"), dtype=FP32)


class TestFileSelection:
    REPOSITORY = (
        "README.md",
        "model_index.json",
        "sd_xl_base_1.0.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/model.onnx",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/openvino_model.xml",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "vae_1_0/diffusion_pytorch_model.safetensors",
    )

    def test_half_precision_takes_fp16_where_there_is_any(self) -> None:
        assert self._weights(select_files(self.REPOSITORY, half=True)) == [
            "text_encoder/model.fp16.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        ]

    def test_full_precision_takes_the_plain_files(self) -> None:
        assert self._weights(select_files(self.REPOSITORY, half=False)) == [
            "text_encoder/model.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        ]

    def test_full_precision_takes_fp16_when_there_is_nothing_else(self) -> None:
        only_half = [name for name in self.REPOSITORY if ".safetensors" not in name or "fp16" in name]
        assert "unet/diffusion_pytorch_model.fp16.safetensors" in select_files(only_half, half=False)

    def test_shards_come_with_their_index(self) -> None:
        plain = [
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
        ]
        half = [
            "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        ]
        assert select_files([*plain, *half], half=False) == plain
        assert select_files([*plain, *half], half=True) == half

    def test_a_folder_with_an_fp16_unet_loads_in_half_precision(
        self, copy: Path, base: StableDiffusionXLPipeline
    ) -> None:
        base.unet.half().save_pretrained(copy / "unet", variant="fp16")
        base.unet.float()
        (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        files = locate(str(copy), half=True)
        assert files.variant == "fp16"
        loaded = load_base(str(copy), dtype=torch.float16, device="cpu")
        assert torch.equal(loaded.unet.conv_in.weight, base.unet.conv_in.weight.half())

    def _weights(self, names: list[str]) -> list[str]:
        return [name for name in names if name.endswith(".safetensors")]


class TestFingerprint:
    def test_of_a_single_file_depends_on_its_bytes_and_what_describes_it(self, toy: Path, tmp_path: Path) -> None:
        file = tmp_path / "model.safetensors"
        write_single_file(toy / "base", file)
        with_shipped = fingerprint(str(file), dtype=FP32)
        other_name = file.rename(tmp_path / "other.safetensors")
        assert fingerprint(str(other_name), dtype=FP32) == with_shipped
        shutil.copytree(toy / "base", tmp_path / "other", ignore=shutil.ignore_patterns("*.safetensors"))
        beside = fingerprint(str(other_name), dtype=FP32)
        assert beside != with_shipped
        (tmp_path / "other" / "scheduler" / "scheduler_config.json").write_text("{}")
        assert fingerprint(str(other_name), dtype=FP32) not in {with_shipped, beside}

    @pytest.mark.parametrize(
        "name", ["tokenizer/tokenizer.json", "tokenizer_2/tokenizer_config.json", "scheduler/scheduler_config.json"]
    )
    def test_depends_on_tokenizers_and_configurations(self, toy: Path, copy: Path, name: str) -> None:
        content = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(content | {"truncation": None, "note": "changed"}))
        assert fingerprint(str(copy), dtype=FP32) != fingerprint(str(toy / "base"), dtype=FP32)

    def test_of_a_folder_depends_on_every_weight_and_not_on_what_is_not_loaded(self, toy: Path, copy: Path) -> None:
        original = fingerprint(str(toy / "base"), dtype=FP32)
        assert len(original) == 16
        (copy / "README.md").write_text("moved")
        assert fingerprint(str(copy), dtype=FP32) == original
        vae = copy / "vae" / "diffusion_pytorch_model.safetensors"
        damaged = bytearray(vae.read_bytes())
        damaged[-1] ^= 1
        vae.write_bytes(damaged)
        assert fingerprint(str(copy), dtype=FP32) != original

    def test_believes_the_name_of_a_blob_in_the_hubs_cache(self, tmp_path: Path) -> None:
        blob = tmp_path / "blobs" / ("ab" * 32)
        blob.parent.mkdir()
        blob.write_bytes(b"anything")
        link = tmp_path / "model.safetensors"
        link.symlink_to(blob)
        assert sha256(link) == "ab" * 32


class TestDevices:
    def test_auto_is_something_that_works(self) -> None:
        torch.zeros(1, device=resolve_device("auto"))

    @pytest.mark.parametrize("spec", ["cuda:99", "gpu", "meta", "cpu:"])
    def test_unavailable_or_unknown(self, spec: str) -> None:
        with pytest.raises(SettingsError, match="device"):
            resolve_device(spec)

    def test_dtype_follows_the_device(self) -> None:
        assert resolve_dtype("auto", "cpu") is torch.float32
        assert resolve_dtype("auto", "mps") is torch.float16
        assert resolve_dtype("bf16", "cpu") is torch.bfloat16

    @pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
    def test_cuda_takes_bf16_when_the_card_has_it(
        self, monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
        assert resolve_dtype("auto", "cuda:1") is expected

    def test_unknown_dtype(self) -> None:
        with pytest.raises(SettingsError, match="int8"):
            resolve_dtype("int8", "cpu")


class FakeHub:
    """A repository that holds `source` and things nobody asked for; snapshots land in `target`."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target
        self.names = [p.relative_to(source).as_posix() for p in source.rglob("*.*")]
        self.fetched: list[str] = []

    def snapshot_download(
        self,
        _model_id: str,
        *,
        dry_run: bool = False,
        allow_patterns: list[str] | None = None,
        **_options: object,
    ) -> list[DryRunFileInfo] | str:
        if dry_run:
            unwanted = ["sd_xl_base_1.0.safetensors", "unet/model.onnx", "vae_1_0/config.json"]
            return [
                DryRunFileInfo("0" * 40, 1, name, "", is_cached=False, will_download=True)
                for name in self.names + unwanted
            ]
        for name in allow_patterns or []:
            (self.target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.source / name, self.target / name)
            self.fetched.append(name)
        return str(self.target)


def _no_network(*_: object) -> None:
    raise OSError("the network is off in this test")


def _assert_equal(one: torch.nn.Module, other: torch.nn.Module) -> None:
    weights, others = one.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
