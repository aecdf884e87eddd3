"""Downloads of models and LoRAs: jobs, transfers in segments, verification, installation."""
