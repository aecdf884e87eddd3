"""Models on servers that run already."""
