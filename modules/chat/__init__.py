"""Prompts made from conversations."""
