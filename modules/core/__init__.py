"""Errors and events, as every process uses them. Standard library only."""
