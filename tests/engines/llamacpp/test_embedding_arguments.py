"""The calls that load a model for vectors, and the memory that they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules.engines.llamacpp.arguments import Build
from modules.engines.llamacpp.embedding_arguments import (
    LONGEST_TEXT,
    MAX_TEXTS,
    PACKED_TOKENS,
    embedding_arguments,
    embedding_header,
    embedding_notes,
    longest_text,
    packed_tokens,
    splits_texts,
    step_tokens,
)
from modules.engines.llamacpp.memory import placed
from modules.formats.gguf_header import GgufHeader, read_header
from modules.options.load import OPTIONS
from modules.options.option import Value
from tests.conftest import LLAMA
from tests.support.gguf_files import MODEL, gguf

BUILD = Build(gpu_offload=False, max_devices=1)
MEAN, LAST = 1, 3


def header_of(folder: Path, **metadata: Any) -> GgufHeader:
    path = folder / "x.gguf"
    named = {f"llama.{key}": value for key, value in metadata.items()}
    path.write_bytes(gguf(MODEL | {"tokenizer.ggml.tokens": [f"t{number}" for number in range(64)]} | named))
    return read_header(path)


def options(**chosen: Value) -> dict[str, Value]:
    return {key: OPTIONS[key].default for key in LLAMA.options} | chosen


def context(header: GgufHeader, **chosen: Value) -> dict[str, Any]:
    calls = embedding_arguments(Path("x.gguf"), options(**chosen), BUILD, header)
    found: dict[str, Any] = calls["llama_init_from_model"]
    return found


def test_a_text_is_computed_in_one_step_where_its_tokens_see_each_other(tmp_path: Path) -> None:
    args = context(header_of(tmp_path, pooling_type=MEAN))
    assert (args["n_ctx"], args["n_batch"], args["n_ubatch"]) == (4096, 4096, 4096)
    assert (args["embeddings"], args["pooling_type"], args["n_seq_max"]) == (True, MEAN, MAX_TEXTS)


def test_a_text_is_computed_in_pieces_where_the_last_token_counts(tmp_path: Path) -> None:
    header = header_of(tmp_path, pooling_type=LAST)
    args = context(header)
    assert splits_texts(header)
    assert (args["n_ctx"], args["n_batch"], args["n_ubatch"]) == (4096, PACKED_TOKENS, PACKED_TOKENS)
    assert not splits_texts(header_of(tmp_path, pooling_type=LAST, **{"attention.causal": False}))


def test_an_encoder_whose_file_says_nothing_takes_the_mean(tmp_path: Path) -> None:
    assert context(header_of(tmp_path, **{"attention.causal": False}))["pooling_type"] == MEAN


def test_a_text_is_never_longer_than_the_model_has_positions_for(tmp_path: Path) -> None:
    header = header_of(tmp_path, pooling_type=MEAN)
    assert longest_text(header, options(n_ctx=1000)) == 1000
    assert longest_text(header, options(n_ctx=100_000)) == 4096
    assert longest_text(header_of(tmp_path, pooling_type=MEAN, context_length=100_000), options()) == LONGEST_TEXT


def test_options_of_the_generation_have_no_effect(tmp_path: Path) -> None:
    args = context(header_of(tmp_path, pooling_type=MEAN), cache_4bit=True, n_batch=64, parallel=4)
    assert "type_k" not in args and args["n_batch"] == 4096
    notes = embedding_notes(Path("x.gguf"), options(cache_4bit=True, no_mul_mat_q=True), BUILD)
    assert {note.option for note in notes} >= {"cache_4bit", "no_mul_mat_q"}


def test_a_large_vocabulary_limits_the_texts_computed_together(tmp_path: Path) -> None:
    header = header_of(tmp_path, pooling_type=MEAN)
    assert packed_tokens(header) == PACKED_TOKENS
    numbers = dict(header.numbers) | {"tokenizer.ggml.tokens": 250_000}
    large = GgufHeader(**{**vars(header), "numbers": numbers})
    assert packed_tokens(large) == 134 and step_tokens(large, options()) == 4096
    logits = [placed(one, options())[0].other for one in (large, header)]
    assert logits[0] - logits[1] >= 4 * 4096 * (250_000 - 64)


def test_other_files_are_left_to_the_engine_that_generates(tmp_path: Path) -> None:
    header_of(tmp_path)
    assert embedding_header(tmp_path / "x.gguf") is None
    assert embedding_header(tmp_path / "missing.gguf") is None
