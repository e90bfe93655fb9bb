"""Benches of the engine: scheduling, equality of pictures, quality of pictures."""
