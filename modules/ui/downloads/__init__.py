"""The Downloads panel."""
