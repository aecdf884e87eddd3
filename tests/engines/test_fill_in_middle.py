"""The tokens for filling in the middle, by the names in several vocabularies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modules.core.fill_in_middle import FimTokens
from modules.engines.fill_in_middle import find_fim_tokens


def encoder(*names: str) -> Callable[[str], list[int]]:
    """Return a tokenizer with these special tokens, the ids 100, 101, …; any other text has a token a character."""
    ids = {name: 100 + index for index, name in enumerate(names)}
    return lambda text: [ids[text]] if text in ids else list(map(ord, text))


FOUND = {
    "Qwen": (
        ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_sep|>"),
        FimTokens(100, 102, 101, False, ("<|file_sep|>",)),
    ),
    "StarCoder": (
        ("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"),
        FimTokens(100, 102, 101, False, ("<fim_pad>",)),
    ),
    "Code Llama": (("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"), FimTokens(100, 102, 101, False, ("▁<EOT>", " <EOT>"))),
    "DeepSeek": (("<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"), FimTokens(101, 100, 102)),
    "Seed-Coder": (("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"), FimTokens(100, 101, 102, True)),
    "Codestral": (("[INST]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"), FimTokens(101, 103, -1, True)),
    "one is missing": (("<|fim_prefix|>", "<|fim_suffix|>"), None),
    "a model for chats": (("<|im_start|>", "<|im_end|>"), None),
}


def test_the_tokens_are_found_by_the_names_of_their_family(subtests: pytest.Subtests) -> None:
    for name, (special, expected) in FOUND.items():
        with subtests.test(name):
            assert find_fim_tokens(encoder(*special)) == expected
