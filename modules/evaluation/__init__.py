"""Perplexity of a model on a text, and the price of a load option."""
