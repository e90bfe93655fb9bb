"""Where the demo SDXL lies that comes with this package; `models train-demo` made it, and its card says how."""

from __future__ import annotations

from pathlib import Path

DEMO = Path(__file__).parent / "demo"
DEMO_BASE, DEMO_REFINER = DEMO / "base", DEMO / "refiner"
