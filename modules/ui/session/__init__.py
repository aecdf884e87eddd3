"""The Session page: look, defaults, flags, restart, storage, versions and the log."""
