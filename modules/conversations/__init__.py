"""Conversations that are kept on disk."""
