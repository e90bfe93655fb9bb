"""The figures of `sdxl-worker report`: `read` streams the result topics, `tally` counts, the rest shows."""
