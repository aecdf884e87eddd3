"""Train LoRAs: parameters, data, runs."""
