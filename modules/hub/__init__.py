"""Hugging Face and its mirrors."""
