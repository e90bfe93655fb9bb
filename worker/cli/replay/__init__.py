"""The `replay` verb: options, progress, run."""
