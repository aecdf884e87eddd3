"""Read calls that Llama 3 writes as Python: name.call(key="value")."""

from __future__ import annotations

from modules.chat.tools.json_reading import MAX_NAME
from modules.chat.tools.reader import NotACall, Reading, ReplyReader
from modules.chat.tools.values import python_arguments

_MAX_ARGUMENTS = 20_000
"""Characters."""
_MAX_PARENTHESES = 64
"""How many closing parentheses are tried as the end of a call: those before are in its texts."""


def read_python_call(reader: ReplyReader) -> Reading[None]:
    """Read a call of a known tool whose arguments are literals. Raises NotACall if there is none."""
    name, _ = yield from reader.until((".call(",), MAX_NAME)
    if name.strip() not in reader.tools:
        raise NotACall
    text = ""
    for _ in range(_MAX_PARENTHESES):
        part, _ = yield from reader.until((")",), _MAX_ARGUMENTS)
        text += part
        arguments = python_arguments(text)
        if arguments is not None:
            reader.begin_call(name.strip())
            reader.write(arguments)
            reader.end_call()
            return
        text += ")"
    raise NotACall
