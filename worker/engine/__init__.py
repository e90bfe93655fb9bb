"""The GPU's room: which rows go into the next UNet step, and the step itself."""
