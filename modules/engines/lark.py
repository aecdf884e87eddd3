"""Write the grammar of an answer in llguidance's form of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from modules.core.answer_grammar import LENIENT, AnswerGrammar
from modules.core.events import Json

_WHITE_SPACE = r"[ \n\r\t]{0,20}"
"""Between the parts of JSON. Small models would otherwise go on with white space for ever."""
_TERMINALS = (r"SPACE: /[ \n\r\t]{1,20}/", r"ANYTHING: /(.|\n)*/")


def schemas_of(node: Json) -> Iterator[Json]:
    """Yield the JSON schemas in a node."""
    kind, *parts = node
    if kind == "json":
        yield parts[0]
    elif kind not in ("text", "until"):
        for part in parts:
            yield from schemas_of(part)


def lark_grammar(grammar: AnswerGrammar, tokenizer: Any) -> str:
    """Return `grammar` for the tokens of llguidance's `tokenizer`."""
    writer = _Writer(tokenizer)
    start = writer.expression(grammar)
    return "\n".join((f"start: {start}", *writer.rules, *_TERMINALS))


class _Writer:
    """Collects the rules that the expressions refer to."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._names: dict[str, str] = {}

    @property
    def rules(self) -> Sequence[str]:
        return [name + body for body, name in self._names.items()]

    def expression(self, node: Json) -> str:
        match node:
            case ["text", text]:
                return " ".join(self._parts(text)) or '""'
            case ["json", schema]:
                return self._json(schema)
            case ["until", end]:
                return self._until(end)
            case ["rest"]:
                return "ANYTHING"
            case ["space"]:
                return "SPACE?"
            case ["maybe", inner]:
                return f"({self.expression(inner)})?"
            case ["many", inner]:
                return f"({self.expression(inner)})+"
            case ["all", *nodes]:
                return f"({' '.join(map(self.expression, nodes))})"
            case ["any", *nodes]:
                return f"({' | '.join(map(self.expression, nodes))})"
        raise ValueError(f"{node!r} is no node of a grammar")

    def _rule(self, body: str) -> str:
        """Return the name of the rule with that body, which begins with its attributes."""
        return self._names.setdefault(body, f"rule_{len(self._names)}")

    def _json(self, schema: Json) -> str:
        if isinstance(schema, dict):
            guidance = {"whitespace_pattern": _WHITE_SPACE, "lenient": schema.get(LENIENT) is True}
            schema = {key: value for key, value in schema.items() if key != LENIENT} | {"x-guidance": guidance}
        return self._rule(f": %json {json.dumps(schema)}")

    def _until(self, end: str) -> str:
        first, *rest = self._parts(end)
        if not first.startswith('"'):
            return self._rule(f": ANYTHING {' '.join((first, *rest))}")
        if not rest:
            return self._rule(f"[suffix={first}]: ANYTHING")
        # A lexeme of any text takes all it can get, so that it must contain the beginning of the end.
        beginning = re.escape(json.loads(first)).replace("/", r"\/")
        return self._rule(rf": /(.|\n)*{beginning}/ {' '.join(rest)}")

    def _parts(self, markup: str) -> list[str]:
        """Return the special tokens in `markup`, by their ids, and the texts between them, as they are in Lark."""
        tokens = filter(self._tokenizer.is_special_token, self._tokenizer.tokenize_str(markup, parse_special=True))
        ids = {self._tokenizer.decode_str([token]): token for token in tokens}
        pieces = re.split("(" + "|".join(map(re.escape, ids)) + ")", markup) if ids else [markup]
        return [
            f"<[{ids[piece]}]>" if piece in ids else json.dumps(piece, ensure_ascii=False) for piece in pieces if piece
        ]
