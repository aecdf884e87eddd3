"""The bytes of single tokens, by small tokenizers of each kind."""

from __future__ import annotations

from typing import Any

import pytest

from modules.engines.hf.token_bytes import TokenBytes
from modules.engines.hf.token_text import TextTokenizer
from tests.support.hf_vocabularies import small_tokenizer

pytestmark = pytest.mark.usefixtures("backend")

TEXT = "the year 猫🐈 é was\n good"


def sentencepiece_tokenizer() -> Any:
    """Return a tokenizer like those of Llama 2: "▁" for spaces, and bytes for what it has no characters for."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz", "▁t"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "t")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_the_tokens_of_a_byte_level_vocabulary_have_the_bytes_of_the_text() -> None:
    text = TextTokenizer(small_tokenizer())
    raw = TokenBytes(text.tokenizer, text.decode)
    pieces = [raw.of(token) for token in text.encode(TEXT)]
    assert b"".join(pieces).decode() == TEXT
    assert any(not _is_whole(piece) for piece in pieces)


def test_the_tokens_of_a_sentencepiece_vocabulary_have_the_bytes_of_the_text_after_a_space() -> None:
    text = TextTokenizer(sentencepiece_tokenizer())
    raw = TokenBytes(text.tokenizer, text.decode)
    assert b"".join(raw.of(token) for token in text.encode(TEXT)).decode() == f" {TEXT}"
    assert [raw.of(token) for token in text.encode("t猫")] == [b" t", b"\xe7", b"\x8c", b"\xab"]


def test_special_tokens_have_the_bytes_of_their_names_and_are_marked() -> None:
    for tokenizer, name in ((small_tokenizer(), "<|end|>"), (sentencepiece_tokenizer(), "</s>")):
        text = TextTokenizer(tokenizer)
        *words, end = text.questions["pieces"](f"the{name}", add_special=False)
        assert end[1:] == [name, name.encode().hex(), True]
        assert not any(special for *_, special in words)


def test_of_other_tokenizers_whole_characters_have_bytes() -> None:
    raw = TokenBytes(object(), lambda tokens, _: bytes(tokens).decode("utf-8", "replace"))  # a token a byte
    assert (raw.of(ord("a")), raw.of(0xE7), raw.is_special(0)) == (b"a", b"", False)


def test_the_beginning_of_a_prompt_is_among_the_pieces_if_it_is_asked_for() -> None:
    text = TextTokenizer(sentencepiece_tokenizer())
    from tokenizers.processors import TemplateProcessing

    text.tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", None, [("<s>", 1)])
    assert [piece[1] for piece in text.questions["pieces"]("a")] == ["<s>", " ", "a"]
    assert [piece[1] for piece in text.questions["pieces"]("a", add_special=False)] == [" ", "a"]


def _is_whole(piece: bytes) -> bool:
    return "\ufffd" not in piece.decode("utf-8", "replace")
