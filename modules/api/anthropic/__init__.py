"""Anthropic's API: its messages become chat completions, whose answers are written in its format."""
