"""Where the demo SDXL and its LoRAs lie that come with this package; the card beside them says how they were made."""

from __future__ import annotations

from pathlib import Path

DEMO = Path(__file__).parent / "demo"
DEMO_BASE, DEMO_REFINER, DEMO_LORAS = DEMO / "base", DEMO / "refiner", DEMO / "loras"
