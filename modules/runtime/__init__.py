"""Model workers as the main process sees them."""
