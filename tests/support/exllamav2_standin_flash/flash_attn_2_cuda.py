"""The compiled part of flash-attn: exllamav2 only looks whether it can be imported."""
