"""Small SDXL models for tests, demo and benches: toy models with random weights, and the trained demo model."""

import worker.models  # noqa: F401 - quietens transformers before it is first imported
