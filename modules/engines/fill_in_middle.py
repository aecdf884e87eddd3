"""Find a model's tokens for filling in the middle of a text, by the names that model families gave them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modules.core.fill_in_middle import FimTokens


@dataclass(frozen=True)
class _Names:
    prefix: str
    suffix: str
    middle: str = ""
    suffix_first: bool = False


_NAMES = (
    _Names("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma, Granite 3
    _Names("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite Code, Stable Code, Refact
    _Names("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    _Names("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder, DeepSeek-V2 and later
    _Names("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    _Names("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM-4.5
    _Names("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),  # Seed-Coder
    _Names("[PREFIX]", "[SUFFIX]", suffix_first=True),  # Codestral, whose [MIDDLE] is not used
)


_STOPS = (
    *("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|file_separator|>"),
    *("<fim_pad>", "<file_sep>", "<fim-pad>", "▁<EOT>", "<EOT>"),
)
"""Special tokens that models write where a gap is filled, and go on with another file."""


def find_fim_tokens(encode: Callable[[str], Sequence[int]]) -> FimTokens | None:
    """Return the tokens with the names of a family, None if the vocabulary has none of them.

    `encode` returns the tokens of a text, special ones by name, without BOS: a name that is a token is one token.
    """

    def token(name: str) -> int:
        tokens = encode(name) if name else ()
        return tokens[0] if len(tokens) == 1 else -1

    def stops() -> tuple[str, ...]:
        """Return the names that are tokens, also with a space where a tokenizer decodes "▁" as one."""
        present = (name for name in _STOPS if token(name) >= 0)
        return tuple(text for name in present for text in dict.fromkeys((name, name.replace("▁", " "))))

    for names in _NAMES:
        found = FimTokens(token(names.prefix), token(names.suffix), token(names.middle), names.suffix_first, stops())
        if min(found.prefix, found.suffix) >= 0 and (found.middle >= 0 or not names.middle):
            return found
    return None
