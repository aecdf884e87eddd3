"""Files the user edits: settings, per-model settings, presets, flags, trusted code."""
