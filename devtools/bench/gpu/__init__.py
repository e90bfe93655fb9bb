"""Benchmark of the worker's engine on a GPU, against diffusers' own pipelines and the card's arithmetic limit."""
