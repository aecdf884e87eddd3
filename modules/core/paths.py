"""Where the program lies on disk."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: server.py, models/, loras/, overlays/ and the settings lie in it."""
