"""A GPU that is there and cannot be used is told, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worker.errors import SettingsError
from worker.models.cuda import Machine, look_at_machine, unsupported_card, unusable_gpus
from worker.models.load import resolve_device

# As the driver writes it: the proprietary module, and the open one.
PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version: 12\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs@b)  Sun Jul 27\n"
# Those of the wheels that the requirements name.
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a file system with two GPUs."""
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / name).touch()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(PROPRIETARY)
    return tmp_path


class TestMachine:
    def test_devices_and_driver_are_found(self, root: Path) -> None:
        assert look_at_machine(root, {}) == Machine(2, "550.54.14", hidden=False)
        (root / "proc/driver/nvidia/version").write_text(OPEN)
        assert look_at_machine(root, {}).driver == "580.65.06"

    def test_a_container_on_a_gpu_host_has_none_unless_it_was_given_some(self, root: Path) -> None:
        for device in root.glob("dev/nvidia*"):
            device.unlink()
        assert look_at_machine(root, {}).gpus == 0

    @pytest.mark.parametrize("text", ["", "NVRM version: unknown", "\udcff"])
    def test_a_driver_that_does_not_tell_its_version(self, root: Path, text: str) -> None:
        (root / "proc/driver/nvidia/version").write_text(text, errors="surrogateescape")
        assert look_at_machine(root, {}).driver is None

    @pytest.mark.parametrize(
        ("environment", "hidden"),
        [
            ({}, False),
            ({"CUDA_VISIBLE_DEVICES": "1"}, False),
            ({"NVIDIA_VISIBLE_DEVICES": "all"}, False),
            ({"CUDA_VISIBLE_DEVICES": ""}, True),
            ({"CUDA_VISIBLE_DEVICES": "-1"}, True),
            ({"NVIDIA_VISIBLE_DEVICES": "void"}, True),
        ],
    )
    def test_gpus_may_be_hidden_on_purpose(self, root: Path, environment: dict[str, str], hidden: bool) -> None:
        assert look_at_machine(root, environment).hidden is hidden


class TestUnusable:
    @pytest.mark.parametrize(
        ("machine", "cuda", "part"),
        [
            (Machine(1, "550.54.14", hidden=False), "13.0", "driver 550.54.14 is too old for CUDA 13.0: install 580"),
            (Machine(8, "470.1", hidden=False), "12.8", "8 NVIDIA GPUs are there, but the driver 470.1 is too old"),
            (
                Machine(1, "580.65.06", hidden=False),
                "13.0",
                r"cannot use it \(driver 580.65.06\): see whether nvidia-smi",
            ),
            (Machine(1, None, hidden=False), "13.0", "cannot use it: see whether nvidia-smi"),
            (Machine(1, "999.1", hidden=False), "99.0", "cannot use it"),
            (Machine(1, "580.65.06", hidden=False), None, "built without CUDA"),
        ],
    )
    def test_each_reason_has_its_line(self, machine: Machine, cuda: str | None, part: str) -> None:
        with pytest.raises(AssertionError, match=part):
            raise AssertionError(unusable_gpus(machine, cuda))

    @pytest.mark.parametrize("machine", [Machine(0, "550.54.14", hidden=False), Machine(2, "550.54.14", hidden=True)])
    def test_no_gpu_is_no_trouble(self, machine: Machine) -> None:
        assert unusable_gpus(machine, "13.0") is None

    @pytest.mark.parametrize(
        ("capability", "runs"),
        [
            ((6, 1), False),
            ((7, 0), False),
            ((7, 5), True),
            ((8, 9), True),
            ((9, 0), True),
            ((12, 0), True),
            ((12, 1), True),
            ((13, 0), False),
        ],
    )
    def test_cards_that_torch_has_no_kernels_for(self, capability: tuple[int, int], runs: bool) -> None:
        assert (unsupported_card("card", capability, ARCHITECTURES) is None) is runs

    def test_the_driver_compiles_for_newer_cards_where_torch_lets_it(self) -> None:
        assert unsupported_card("card", (13, 0), [*ARCHITECTURES, "compute_120"]) is None
        assert unsupported_card("card", (9, 0), ["sm_90a"]) is None
        assert unsupported_card("card", (9, 0), []) is None


class TestDevice:
    @pytest.mark.parametrize("spec", ["auto", "cuda", "cuda:0"])
    def test_the_worker_does_not_start_beside_an_unusable_gpu(self, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr("worker.models.cuda.look_at_machine", lambda: Machine(1, "550.54.14", hidden=False))
        with pytest.raises(SettingsError, match=r"DEVICE: an NVIDIA GPU is there, but the driver 550\.54\.14"):
            resolve_device(spec)
        assert resolve_device("cpu") == torch.device("cpu")

    def test_nor_on_a_card_that_is_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        card = type("Card", (), {"name": "GTX 1080 Ti", "major": 6, "minor": 1})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: card)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ARCHITECTURES)
        with pytest.raises(SettingsError, match=r"GTX 1080 Ti has compute capability 6\.1, and this torch needs 7\.5"):
            resolve_device("auto")
