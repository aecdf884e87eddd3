"""The form of an answer as a structural tag of xgrammar, which vLLM and SGLang take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modules.core.answer_grammar import AnswerGrammar
from modules.core.events import Json
from modules.engines.served.parameters import without_marks

_WHITE_SPACE = r"[ \n\r\t]{0,20}"
"""Between the parts of an answer. Small models would otherwise go on with white space for ever."""


def structural_tag(grammar: AnswerGrammar) -> dict[str, Json]:
    """Return the structural tag of the answers that match `grammar`.

    Unlike those of our own engines, texts may be made of any tokens, special ones or not.
    """
    return {"type": "structural_tag", "format": _format(grammar)}


def _format(node: AnswerGrammar, excluded: Sequence[str] = ()) -> dict[str, Json]:
    """Return the format of a node; "rest" nodes do not contain the texts that are `excluded`."""
    match node:
        case ["text", text]:
            return {"type": "const_string", "value": text}
        case ["json", schema]:
            return {"type": "json_schema", "json_schema": without_marks(schema)}
        case ["until", end]:
            return {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": end}
        case ["rest"]:
            return {"type": "any_text", "excludes": list(excluded)}
        case ["space"]:
            return {"type": "regex", "pattern": _WHITE_SPACE}
        case ["maybe", inner]:
            return {"type": "optional", "content": _format(inner)}
        case ["many", inner]:
            return {"type": "plus", "content": _format(inner)}
        case ["all", *nodes]:
            return {"type": "sequence", "elements": [_format(one) for one in nodes]}
        case ["any", *nodes]:
            ends = list(_first_ends(nodes))
            return {"type": "or", "elements": [_format(one, ends) for one in nodes]}
    raise ValueError(f"{node!r} is no node of a grammar")


def _first_ends(nodes: Sequence[AnswerGrammar]) -> Iterator[str]:
    """Yield the texts up to which the alternatives run that begin with any text."""
    for node in nodes:
        first = node
        while first[0] == "all" and len(first) > 1:
            first = first[1]
        if first[0] == "until":
            yield first[1]
