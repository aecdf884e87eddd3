"""The list of models in the format of Anthropic's API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from modules.core.errors import OptionError, Words
from modules.core.events import Json

MAX_LIMIT = 1000

_LIMIT: Words = {"en": f"a whole number from 1 to {MAX_LIMIT}", "zh": f" 1 到 {MAX_LIMIT} 之间的整数"}
_ID: Words = {"en": "the id of a model in the list", "zh": "列表中某个模型的 id"}


def model_info(model: Mapping[str, Json]) -> Json:
    """Return a model, given OpenAI's object of it."""
    context = model.get("context_length") or None
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": datetime.fromtimestamp(model["created"], timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": context,
        "max_tokens": context,
    }


def models_page(models: Sequence[Mapping[str, Json]], query: Mapping[str, str]) -> Json:
    """Return the page of the list that `query` asks for by `limit`, `after_id` and `before_id`.

    Without `limit`, it has MAX_LIMIT models. Raises OptionError for an id that is not in the list.
    """
    ids = [model["id"] for model in models]
    limit = query.get("limit", str(MAX_LIMIT))
    if not (re.fullmatch("[0-9]{1,9}", limit) and 1 <= int(limit) <= MAX_LIMIT):
        raise OptionError("limit", limit[:80], _LIMIT)
    start, end = 0, len(ids)
    for name in ("after_id", "before_id"):
        if name in query and query[name] not in ids:
            raise OptionError(name, query[name][:80], _ID)
    if "before_id" in query:
        end = ids.index(query["before_id"])
        start = max(end - int(limit), 0)
    elif "after_id" in query:
        start = ids.index(query["after_id"]) + 1
    page = models[start : min(start + int(limit), end)]
    more = start > 0 if "before_id" in query else start + len(page) < end
    return {
        "data": [model_info(model) for model in page],
        "has_more": more,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }
