"""Benchmark of the step scheduler: the real engine in virtual time, compared with other policies and diffusers."""
