"""Stands in for the compiled part of flash-attn: exllamav2 only checks that it can be imported."""
