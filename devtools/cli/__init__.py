"""The developer's verbs; `worker.cli` lists them where this package is present."""
