"""Which cards are there and which are meant, with a fake NVML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from worker.errors import SettingsError
from worker.gpus.cards import Card, choose, list_cards


class NVMLError(Exception):
    """pynvml's error."""


class Nvml:
    """Cards by their UUIDs; for those with MIG on, the instances by their places."""

    NVMLError = NVMLError

    def __init__(self, uuids: Sequence[str], instances: Mapping[str, Mapping[int, str]] | None = None) -> None:
        self._uuids = uuids
        self._instances = instances or {}

    def nvmlInit(self) -> None:
        if not self._uuids:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self._uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self._uuids[index]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, _handle: str) -> bytes:
        return b"NVIDIA H100"

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:
        if handle.startswith("GPU-old"):
            raise NVMLError("Not Supported")
        return (1, 1) if handle in self._instances else (0, 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, _handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        try:
            return self._instances[handle][index]
        except KeyError:
            raise NVMLError("Not Found") from None


FOUR = [Card(f"GPU-{letter}", "NVIDIA H100", number) for number, letter in enumerate("abcd")]


def test_every_card_is_listed() -> None:
    assert list_cards(Nvml(["GPU-a", "GPU-old"])) == [
        Card("GPU-a", "NVIDIA H100", 0), Card("GPU-old", "NVIDIA H100", 1),
    ]  # fmt: skip


def test_where_mig_is_on_its_instances_stand_for_the_card() -> None:
    nvml = Nvml(["GPU-a", "GPU-b"], {"GPU-a": {0: "MIG-1", 3: "MIG-2"}})
    assert [(card.uuid, card.number) for card in list_cards(nvml)] == [("MIG-1", 0), ("MIG-2", 1), ("GPU-b", 2)]


def test_without_a_driver_one_line_says_so() -> None:
    with pytest.raises(SettingsError, match=r"^--gpus: NVIDIA's driver does not answer"):
        list_cards(Nvml([]))


@pytest.mark.parametrize(
    ("wanted", "visible", "numbers"),
    [
        ("all", None, [0, 1, 2, 3]),
        ("2,0", None, [2, 0]),
        ("GPU-b, 3", None, [1, 3]),
        ("all", "1,GPU-d", [1, 3]),
        ("3", "GPU-d", [3]),
    ],
)
def test_what_is_asked_for_is_chosen(wanted: str, visible: str | None, numbers: list[int]) -> None:
    assert [card.number for card in choose(FOUR, wanted, visible)] == numbers


@pytest.mark.parametrize(
    ("wanted", "visible", "sentence"),
    [
        ("4", None, r"--gpus: '4' is no card here; there are: 0 \(GPU-a\)"),
        ("GPU-", None, "several cards"),
        ("0", "1,2", "--gpus: '0' is no card here"),
        ("all", "", "there is no GPU here that may be used"),
        ("", None, "there is no GPU here"),
        ("1,GPU-b", None, "named twice"),
        ("all", "7", "CUDA_VISIBLE_DEVICES: '7' is no card"),
    ],
)
def test_a_wrong_choice_is_one_line(wanted: str, visible: str | None, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        choose(FOUR, wanted, visible)
