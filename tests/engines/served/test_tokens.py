"""The questions about tokens, asked of servers that have the tokenizer of a Hugging Face model."""

from __future__ import annotations

import pytest

from modules.core.errors import Unsupported
from modules.engines.served.discovery import KINDS
from modules.engines.served.server_kind import ServerFacts, ServerKind
from tests.support.served_kinds import Canned, CannedServer, words_tokenizer

TOKENS = [5, 6, 7]


def kind_of(name: str, answers: dict[str, Canned]) -> ServerKind:
    return KINDS[name].make(CannedServer(answers), ServerFacts(name, "m", context_length=9, bos="<s>"))


def test_texts_are_encoded_decoded_and_counted() -> None:
    questions = kind_of("vllm", words_tokenizer("<s>")).questions
    assert questions["encode"]("ab") == [1, 97, 98] and questions["encode"]("ab", add_special=False) == [97, 98]
    assert questions["decode"]([1, 97]) == "<s>a" and questions["decode"]([]) == ""
    assert questions["count"]("ab") == 3
    for name in ("vllm", "sglang"):
        assert kind_of(name, words_tokenizer("<s>")).tokenize("<s>a") == [60, 115, 62, 97], "no second BOS token"


@pytest.mark.parametrize(
    ("names", "pieces"),
    [
        (["Ġä½", "ł", "<|im_end|>"], [b" \xe4\xbd", b"\xa0", b"<|im_end|>"]),
        (["▁Hi", "<0xE4>", "</s>"], [b" Hi", b"\xe4", b"</s>"]),
    ],
)
def test_the_bytes_of_tokens_are_read_from_their_names(names: list[str], pieces: list[bytes]) -> None:
    kind = kind_of("vllm", {"/tokenize": {"tokens": TOKENS, "token_strs": names}})
    found = kind.questions["pieces"]("x")
    assert [bytes.fromhex(piece) for _, _, piece, _ in found] == pieces
    assert [special for *_, special in found] == [False, False, True]


def test_the_texts_of_tokens_without_names_are_asked_for_one_by_one() -> None:
    answers: dict[str, Canned] = {
        "/tokenize": {"tokens": TOKENS},
        "/detokenize": lambda body: {"prompt": {5: "a", 6: "世", 7: "</s>"}[body["tokens"][0]]},
    }
    found = kind_of("vllm", answers).questions["pieces"]("x")
    assert [bytes.fromhex(piece).decode() for _, _, piece, _ in found] == ["a", "世", "</s>"]


def test_a_server_without_a_tokenizer_refuses_to_tokenize() -> None:
    for name in ("ollama", "openai"):
        with pytest.raises(Unsupported, match="counting tokens"):
            kind_of(name, {}).tokenize("a")
