"""The result of an import."""

from __future__ import annotations

from dataclasses import dataclass, field

from modules.conversations.conversation import Conversation
from modules.core.errors import Words


@dataclass(frozen=True)
class ImportResult:
    """The conversations of a file, without ids. `problems` says what could not be taken over.

    `files` has the attachments by SHA-256, which are to be stored before the conversations.
    """

    conversations: list[Conversation] = field(default_factory=list)
    problems: list[Words] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
