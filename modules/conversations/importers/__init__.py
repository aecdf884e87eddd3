"""Conversations from files of other programs. The format of a file is recognized by its content."""
