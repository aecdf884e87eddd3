"""Names in the texts of a character: {{char}}, {{user}}, <BOT> and <USER>, in upper or lower case."""

from __future__ import annotations

import re

_MACRO = re.compile(r"\{\{(char|user)\}\}|<(bot|user)>", re.IGNORECASE)


def fill(text: str, user: str, char: str) -> str:
    """Return the text with the names in place of the macros. A name that contains a macro is not filled again."""

    def name_of(match: re.Match[str]) -> str:
        return user if (match[1] or match[2]).lower() == "user" else char

    return _MACRO.sub(name_of, text)
