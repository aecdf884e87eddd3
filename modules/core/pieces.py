"""Parts of a reply: the thought, the text, and calls of tools, as they become certain while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REASONING, TEXT, CALL, ARGUMENTS = "reasoning", "text", "call", "arguments"

Piece = tuple[str, str]
"""One of the kinds above and a text that is not empty.

CALL begins a call of the tool of that name. ARGUMENTS is a fragment of the JSON text of the arguments of the call that
began last; all fragments of a call together are an object, "{}" for a call without arguments.
"""


class ReplyParser(Protocol):
    """Split one reply into pieces; all of them together do not depend on how the reply is cut."""

    @property
    def inside(self) -> bool:
        """Whether the reply is within its thought."""

    @property
    def faults(self) -> Sequence[str]:
        """Return what the reply tried and failed at: "tool_calls[0]" is a call that is no call and stayed text."""

    def feed(self, text: str) -> list[Piece]:
        """Return what is certain after `text`, which follows the texts of earlier calls."""

    def end(self) -> list[Piece]:
        """Return what was held back, as the reply has ended."""
