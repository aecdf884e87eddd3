"""Conversations as files: ours, those of other programs, and Markdown."""
