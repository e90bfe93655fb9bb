"""A GPU that is there and cannot be used is told, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worker.errors import ModelLoadError, SettingsError
from worker.models import cuda
from worker.models.cuda import Machine, look_at_machine, unsupported_card, unusable_gpus
from worker.models.load import resolve_device

NEW = "580.65.06"
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
    def test_devices_and_driver_are_found(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cuda, "_has_driver_library", lambda: True)
        assert look_at_machine(root, {}) == Machine(2, "550.54.14", hidden=False)
        monkeypatch.setattr(cuda, "_has_driver_library", lambda: False)
        assert not look_at_machine(root, {}).library
        (root / "proc/driver/nvidia/version").write_text(OPEN)
        assert look_at_machine(root, {}).driver == "580.65.06"

    def test_a_container_on_a_gpu_host_has_none_unless_it_was_given_some(self, root: Path) -> None:
        for device in root.glob("dev/nvidia*"):
            device.unlink()
        assert look_at_machine(root, {}).gpus == 0

    def test_a_device_file_that_this_user_may_not_open(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Whoever runs the tests may be root, for whom every file is open.
        monkeypatch.setattr("os.access", lambda path, _mode: Path(path).name != "nvidia-uvm")
        assert look_at_machine(root, {}).closed == "/dev/nvidia-uvm"

    def test_what_the_environment_says(self, root: Path) -> None:
        machine = look_at_machine(root, {"CUDA_VISIBLE_DEVICES": "MIG-7", "NVIDIA_VISIBLE_DEVICES": "all"})
        assert (machine.named, machine.promised) == ("MIG-7", True)
        assert (look_at_machine(root, {}).named, look_at_machine(root, {}).promised) == (None, False)

    def test_parts_of_a_divided_gpu_are_counted(self, root: Path) -> None:
        for part in ("gi1/ci0", "gi2/ci0", "gi2/access"):
            (root / "proc/driver/nvidia/capabilities/gpu0/mig" / part).mkdir(parents=True)
        assert look_at_machine(root, {}).mig == 2

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
            (Machine(1, NEW, hidden=False, closed="/dev/nvidia0"), "13.0", "may not open /dev/nvidia0"),
            (
                Machine(1, NEW, hidden=False, library=False),
                "13.0",
                "libcuda.so.1 is not: in a container, start it with",
            ),
            (Machine(1, NEW, hidden=False, named="GPU-1"), "13.0", "can use none with CUDA_VISIBLE_DEVICES=GPU-1"),
            (
                Machine(1, NEW, hidden=False, named="0", mig=2),
                "13.0",
                r"parts \(MIG\), but .*=0: see whether nvidia-smi -L",
            ),
            (Machine(0, NEW, hidden=False, promised=True), "13.0", "this container was given none of its host's"),
        ],
    )
    def test_each_reason_has_its_line(self, machine: Machine, cuda: str | None, part: str) -> None:
        with pytest.raises(AssertionError, match=part):
            raise AssertionError(unusable_gpus(machine, cuda))

    @pytest.mark.parametrize(
        "machine",
        [
            Machine(0, "550.54.14", hidden=False),
            Machine(0, None, hidden=False, promised=True),
            Machine(2, "550.54.14", hidden=True),
        ],
    )
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

    def test_a_card_that_is_too_new_is_not_called_old(self) -> None:
        assert "newer than this torch knows (12.0)" in str(unsupported_card("card", (13, 0), ARCHITECTURES))

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

    @pytest.mark.parametrize(
        "reason", ["CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`", "CUDA-capable device(s) is/are busy"]
    )
    def test_nor_on_one_that_cannot_be_opened(self, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
        def refuse(_device: object) -> None:
            raise RuntimeError(reason)

        monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "RTX 4090")
        with pytest.raises(ModelLoadError) as told:
            cuda.free_memory(torch.device("cuda"))
        assert str(told.value).startswith(
            f"DEVICE: RTX 4090 cannot be opened ({reason.splitlines()[0]}): see nvidia-smi"
        )
        assert "\n" not in str(told.value)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", refuse)
        with pytest.raises(SettingsError, match="cannot be opened"):
            resolve_device("auto")

    def test_nor_on_a_card_that_is_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        card = type("Card", (), {"name": "GTX 1080 Ti", "major": 6, "minor": 1})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: card)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ARCHITECTURES)
        with pytest.raises(SettingsError, match=r"GTX 1080 Ti has compute capability 6\.1, and this torch needs 7\.5"):
            resolve_device("auto")
