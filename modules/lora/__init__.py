"""LoRAs on disk, whether they fit a model, and which are applied."""
