"""The engine: choose the rows of the next UNet step, run it, and decode finished pictures."""
