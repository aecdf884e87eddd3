"""The Characters page."""
