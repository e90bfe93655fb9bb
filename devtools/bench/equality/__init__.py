"""Reproducibility: random jobs are drawn alone and in batches with others, and compared bit by bit."""
