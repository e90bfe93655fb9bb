"""Trains the demo SDXL from nothing, on pictures that this package draws and captions."""

import worker.models  # noqa: F401 - quietens transformers before it is first imported
