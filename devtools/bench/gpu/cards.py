"""What cards can do at most, from their makers' documents. Pure.

Dense rates of the tensor cores, without structured sparsity. GeForce cards multiply half-precision numbers twice as
fast where the sums are kept in half precision too; on the other cards the two rates are equal. The rates are those at
the card's boost clock, which a card may exceed a little, or fall below for want of power.
"""

from __future__ import annotations

from dataclasses import dataclass

_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet"
_AMPERE = "NVIDIA A100 Tensor Core GPU datasheet"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A"
_ADA = "NVIDIA Ada GPU Architecture whitepaper, appendix A"
_TURING = "NVIDIA Turing GPU Architecture whitepaper, appendix"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture whitepaper, appendix"


@dataclass(frozen=True, slots=True)
class Card:
    """The limits of one card.

    Args:
        fp32_accumulate_tflops: 10^12 operations a second with bfloat16 or float16 factors and float32 sums.
        fp16_accumulate_tflops: the same with float16 factors and float16 sums.
        bandwidth_gb_s: memory bandwidth, 10^9 bytes a second.
        source: the document that the figures are from.
    """

    fp32_accumulate_tflops: float
    fp16_accumulate_tflops: float
    bandwidth_gb_s: float
    source: str


# By the driver's name, without "NVIDIA" and "GeForce". The names are whole ones: chips that only share a part of one,
# such as laptop cards, the 4090 D and MIG slices, have other limits.
CARDS: dict[str, Card] = {
    "B200": Card(2250.0, 2250.0, 7700.0, "NVIDIA HGX B200 datasheet, a GPU's part"),
    "H200": Card(989.4, 989.4, 4800.0, "NVIDIA H200 Tensor Core GPU datasheet"),
    "H100 80GB HBM3": Card(989.4, 989.4, 3350.0, f"{_HOPPER}, SXM"),
    "H100 PCIe": Card(756.5, 756.5, 2000.0, f"{_HOPPER}, PCIe"),
    "H100 NVL": Card(835.5, 835.5, 3900.0, f"{_HOPPER}, NVL"),
    "A100-SXM4-40GB": Card(312.0, 312.0, 1555.0, _AMPERE),
    "A100-SXM4-80GB": Card(312.0, 312.0, 2039.0, _AMPERE),
    "A100-PCIE-40GB": Card(312.0, 312.0, 1555.0, _AMPERE),
    "A100 80GB PCIe": Card(312.0, 312.0, 1935.0, _AMPERE),
    "L40S": Card(362.1, 362.1, 864.0, "NVIDIA L40S datasheet"),
    "L4": Card(121.0, 121.0, 300.0, "NVIDIA L4 datasheet"),
    "A10": Card(125.0, 125.0, 600.0, "NVIDIA A10 datasheet"),
    "Tesla T4": Card(65.0, 65.0, 320.0, "NVIDIA T4 datasheet; float16 only"),
    "RTX 5090": Card(209.5, 419.0, 1792.0, _BLACKWELL),
    "RTX 5080": Card(112.6, 225.1, 960.0, _BLACKWELL),
    "RTX 4090": Card(165.2, 330.3, 1008.0, _ADA),
    "RTX 4080": Card(97.5, 194.9, 716.8, _ADA),
    "RTX 4070 Ti": Card(80.2, 160.4, 504.2, _ADA),
    "RTX 3090 Ti": Card(80.0, 160.0, 1008.0, _GA102),
    "RTX 3090": Card(71.0, 142.0, 936.0, _GA102),
    "RTX 3080": Card(59.5, 119.0, 760.0, _GA102),
    "RTX 2080 Ti": Card(56.9, 113.8, 616.0, f"{_TURING}, Founders Edition; float16 only"),
}


def card_of(device: str) -> Card | None:
    """Return the limits of a card by its driver's name, such as `NVIDIA GeForce RTX 4090`; None: unknown."""
    return CARDS.get(device.removeprefix("NVIDIA ").removeprefix("GeForce "))


def floor_s(tflop: float, card: Card, *, fp16_accumulate: bool = False) -> float:
    """Return the seconds that the card needs at least for so many 10^12 operations."""
    return tflop / (card.fp16_accumulate_tflops if fp16_accumulate else card.fp32_accumulate_tflops)
