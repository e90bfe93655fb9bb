"""Verbs for developers; `worker.cli` lists them where this package is present."""
