"""A small tokenizer for llguidance, and what its grammars make of texts."""

from __future__ import annotations

import json
import re

from modules.core.answer_grammar import AnswerGrammar
from modules.engines.grammars import GrammarRequest, Grammars, import_llguidance

SPECIAL = ("<end>", "<|channel|>", "<|message|>")
TOKENS = [*SPECIAL, "ab", *(chr(code) for code in range(32, 127)), "\n"]
END = 0


def tokens_of(text: str) -> list[int]:
    found = re.findall("|".join(map(re.escape, SPECIAL)) + "|.", text, re.DOTALL)
    return [TOKENS.index(token) for token in found]


def grammars() -> Grammars:
    class Tokenizer:
        """What llguidance asks of a tokenizer: one byte string a token, and the tokens of a text."""

        eos_token_id, bos_token_id, special_token_ids = END, None, list(range(len(SPECIAL)))
        tokens = [token.encode() for token in TOKENS]

        def __call__(self, text: str) -> list[int]:
            return tokens_of(text)

    llguidance = import_llguidance()
    wrapper = llguidance.TokenizerWrapper(Tokenizer())
    return Grammars(llguidance.LLTokenizer(wrapper, n_vocab=len(TOKENS), eos_token=[END]), [END])


def request_of(answer: AnswerGrammar) -> GrammarRequest:
    return GrammarRequest(json.dumps(answer), is_tree=True, field="response_format")


def matches(answer: AnswerGrammar, text: str) -> bool:
    """Return whether `text` is complete under the grammar."""
    matcher = grammars().compile(request_of(answer))()
    return all(map(matcher.accept, tokens_of(text))) and matcher.may_end()
