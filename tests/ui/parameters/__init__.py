"""The Parameters page."""
