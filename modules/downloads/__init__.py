"""Download models and LoRAs in the background."""
