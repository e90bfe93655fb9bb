"""The `replay` verb: command, options, progress and run."""
