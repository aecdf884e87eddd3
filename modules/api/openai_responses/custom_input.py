"""Decode the text that a model gives a custom tool, while the JSON around it is being written."""

from __future__ import annotations

import json
import re

from modules.api.openai_responses.tools import INPUT

_BEGINNING = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')
_CHARACTERS = re.compile(r'(?:[^"\\]|\\(?:[^u]|u[0-9a-fA-F]{4}))*')
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}$")


class CustomInput:
    """Reads the arguments of one call, which are {"input": a text}. `feed` returns what is new of the text."""

    def __init__(self) -> None:
        self.text = ""
        self._arguments = ""
        self._read = 0  # characters of the arguments that have been decoded
        self._ended = False

    def feed(self, fragment: str) -> str:
        self._arguments += fragment
        if not self._read:
            beginning = _BEGINNING.match(self._arguments)
            self._read = beginning.end() if beginning else 0
        if not self._read or self._ended:
            return ""
        found = _CHARACTERS.match(self._arguments, self._read)
        characters = _HIGH_SURROGATE.sub("", found[0]) if found else ""
        self._read += len(characters)
        self._ended = self._arguments.startswith('"', self._read)
        return self._add(_decoded(characters))

    def end(self) -> str:
        """Return what is left of the text.

        If the model chose another form, that is its only text, or all that it wrote.
        """
        if self._read:
            return ""
        try:
            arguments = json.loads(self._arguments)
        except ValueError:
            return self._add(self._arguments)
        values = list(arguments.values()) if isinstance(arguments, dict) else [arguments]
        texts = [value for value in values if isinstance(value, str)]
        if not values:
            return ""
        return self._add(texts[0] if len(values) == 1 and texts else self._arguments)

    def _add(self, text: str) -> str:
        self.text += text
        return text


def _decoded(characters: str) -> str:
    """Return the text of the inside of a JSON string; as it is written, if it has invalid escapes."""
    try:
        text: str = json.loads(f'"{characters}"', strict=False)
    except ValueError:
        return characters
    return text
