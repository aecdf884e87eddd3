"""The registry of loaders, their overlays, and how option values are resolved."""
