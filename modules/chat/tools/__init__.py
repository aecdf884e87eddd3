"""Calls of tools: how chat templates describe them, how models write them, and how they are read from a reply."""
