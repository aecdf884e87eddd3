"""The edge at which errors of engines become errors for users."""

from __future__ import annotations

import traceback

from modules.core.errors import InternalError, WebUIError


def as_error(error: Exception) -> WebUIError:
    """Return an error for users: itself, or for a defect one that names it, with the traceback on stderr."""
    if isinstance(error, WebUIError):
        return error
    traceback.print_exception(error)
    return InternalError(f"{type(error).__name__}: {error}")
