"""Developer tools, which are not in the wheel: local servers, demo, demo model, toy models, benchmarks, capacity."""
