"""The AutoGPTQ loader."""
