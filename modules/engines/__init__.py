"""The backends. Each module here is imported by the worker process only, and may import words and its own packages."""
