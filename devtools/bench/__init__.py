"""Benchmarks of the engine: scheduling, reproducibility of pictures, quality of pictures."""
