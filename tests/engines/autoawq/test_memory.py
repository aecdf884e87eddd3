"""The memory estimate of AutoAWQ."""

from __future__ import annotations

from modules.engines.hf.limits import kv_buffer_length
from tests.engines.hf.test_memory_prequantized import GIB, LLAMA, memory, needs, options


def test_the_context_is_max_seq_len_but_at_most_the_models_own() -> None:
    def tokens(**form: object) -> int:
        per_token = needs("AutoAWQ", (24 * GIB,), max_seq_len=512)[1].cache // kv_buffer_length(512)
        return needs("AutoAWQ", (24 * GIB,), **form)[1].cache // per_token

    assert tokens(max_seq_len=1024) < tokens() == tokens(max_seq_len=9000)


def test_a_shorter_context_is_proposed_if_it_helps() -> None:
    gpu = sum(need.total for need in needs("AutoAWQ", (24 * GIB,), max_seq_len=2048)[1:])
    assert list(memory("AutoAWQ").remedies(LLAMA, options("AutoAWQ"), [64 * GIB, gpu])) == [{"max_seq_len": 2048}]
