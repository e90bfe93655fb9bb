"""`bench worker`: the worker beside what a user would take instead, as ratios of pairs that are measured in turns."""
