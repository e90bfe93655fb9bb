"""LoRAs: read the files, cache the loaded ones, and apply them to a batch."""
