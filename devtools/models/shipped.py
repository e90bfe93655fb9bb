"""Paths of the demo SDXL and its LoRAs in this repository; the README next to them describes how they were made."""

from __future__ import annotations

from pathlib import Path

DEMO = Path(__file__).parent / "demo"
DEMO_BASE, DEMO_REFINER, DEMO_LORAS = DEMO / "base", DEMO / "refiner", DEMO / "loras"
