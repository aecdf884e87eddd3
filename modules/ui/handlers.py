"""The page's edge: how its handlers are attached, what they get and return, and what becomes of their errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.core.errors import InternalError, WebUIError
from modules.ui.widgets.option_form import Component

log = logging.getLogger(__name__)

Values = Mapping[Any, Any]
"""What a handler gets: the value of each component it asked for, by component."""

Updates = dict[Any, Any]
"""What a handler returns: new values or `gr.update`s, by component."""

PRIVATE = {"show_progress": "hidden", "api_visibility": "private"}
"""How every listener is set up. Gradio's own progress would dim what it covers; "private" hides, it does not close."""

UNCHECKED = {"preprocess": False, **PRIVATE}
"""The same for handlers whose menu may have lost what the page still shows in it: Gradio would refuse to call them."""

LOG_PLACE = "logs/webui.log"


def as_error(error: BaseException) -> WebUIError:
    """`error` itself if it is meant for users; any other is logged with its traceback and told as a fault of ours."""
    if isinstance(error, WebUIError):
        return error
    log.error("a handler of the page failed", exc_info=error)
    return InternalError(LOG_PLACE)


@dataclass(frozen=True)
class Shared:
    """Parts of the page that more than one tab changes."""

    pill: Component
    seen: Component  # the version of `ModelManager.status` that this page shows
    bot: Component  # the Chatbot, whose greeting says what to do while there is no model
    truncation: Component  # the prompt's length in the generation parameters, which follows the context at each load
