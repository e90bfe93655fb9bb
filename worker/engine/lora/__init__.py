"""LoRA files, the cache of loaded ones, and their application to a batch."""
