"""The page's edge: what goes wrong in a handler becomes something the user can read."""

from __future__ import annotations

import logging

from modules.errors import InternalError, WebUIError

log = logging.getLogger(__name__)

LOG_PLACE = "logs/webui.log"


def as_error(error: BaseException) -> WebUIError:
    """`error` itself if it is meant for users; any other is logged with its traceback and told as a fault of ours."""
    if isinstance(error, WebUIError):
        return error
    log.error("a handler of the page failed", exc_info=error)
    return InternalError(LOG_PLACE)
