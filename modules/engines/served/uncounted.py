"""The common part of servers that do not count tokens: Ollama, and those that only have OpenAI's API."""

from __future__ import annotations

from modules.engines.engine_protocol import Operations
from modules.engines.served.parameters import missing
from modules.engines.served.prompts import estimate
from modules.engines.served.server_kind import Ask, ServerFacts


class UncountedServer:
    """The part of a `ServerKind` for a server that does not count tokens, so that "count" is an estimate."""

    abilities = frozenset({"parallel"})
    gives_ids = False

    def __init__(self, ask: Ask, facts: ServerFacts) -> None:
        self.facts = facts
        self.questions: Operations = {"count": estimate}
        self.operations: Operations = {}

    def tokenize(self, text: str) -> list[int]:
        """Raise Unsupported: there is no tokenizer to ask."""
        raise missing("counting tokens", "统计词符数")
