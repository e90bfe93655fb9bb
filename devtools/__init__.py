"""Developer tools, kept out of the wheel: local servers, the demo and its model, toy models, benches, capacity."""
