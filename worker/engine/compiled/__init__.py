"""The fast path: one compiled step for each shape of UNet call that the worker was told to expect."""
