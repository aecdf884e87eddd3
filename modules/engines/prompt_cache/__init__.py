"""Prompts that stay evaluated over unload and restart: files with the keys and values of a model for their tokens."""
