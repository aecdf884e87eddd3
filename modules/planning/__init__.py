"""Decide how a model is loaded, and whether it fits the memory."""
