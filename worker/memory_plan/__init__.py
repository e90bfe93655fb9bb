"""How much memory a card needs for a model and settings, computed before any weights are loaded (`docs/memory.md`)."""
