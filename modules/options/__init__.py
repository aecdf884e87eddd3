"""Options as data: load options by family, and generation parameters."""
