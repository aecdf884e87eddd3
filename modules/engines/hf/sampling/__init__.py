"""Samplers of the loaders on transformers."""
