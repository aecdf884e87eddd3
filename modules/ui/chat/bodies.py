"""Parts that the bodies of the page's requests share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modules.core.errors import OptionError, Words
from modules.core.events import Json
from modules.ui.sent_values import Body, text_in

MAX_TEXT = 2_000_000
MAX_TEMPLATE_KWARGS = 20
MAX_KWARG_CHARACTERS, MAX_KWARG_NUMBER = 1000, 10**15

Id = Annotated[str, Field(max_length=300)]
Rev = Annotated[int | None, Field(ge=0)]


class Nothing(Body):
    """The body of a request that says all by its address."""


_KWARGS: Words = {
    "en": f"at most {MAX_TEMPLATE_KWARGS} variables with a short value",
    "zh": f"最多 {MAX_TEMPLATE_KWARGS} 个取值较短的变量",
}


def checked_template_kwargs(sent: Json) -> dict[str, Json]:
    """Return the variables of the template that the script sent. Raises OptionError for others than short values."""
    value = sent or {}
    if (
        not isinstance(value, dict)
        or len(value) > MAX_TEMPLATE_KWARGS
        or not all(map(_is_short, (*value, *value.values())))
    ):
        raise OptionError("template_kwargs", type(value).__name__, _KWARGS)
    return {text_in(name): text_in(one) if isinstance(one, str) else one for name, one in value.items()}


def _is_short(value: Json) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_KWARG_CHARACTERS
    return isinstance(value, int | float) and abs(value) <= MAX_KWARG_NUMBER  # which NaN is not
