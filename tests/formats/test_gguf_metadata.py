"""GGUF metadata is read within limits, and its values are checked for their types."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import IncompleteModel, ModelProblem
from modules.formats.gguf_header import read_header
from modules.formats.gguf_metadata import (
    Metadata,
    get_flag,
    get_integer,
    get_number,
    get_numbers,
    get_string,
    read_metadata,
    read_special_tokens,
)
from modules.system.bounded_reader import BoundedReader
from modules.system.format_errors import FormatError
from tests.support import gguf_files
from tests.support.gguf_files import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    MODEL,
    TEXT,
    U8,
    U16,
    U32,
    U64,
    As,
    Raw,
    array,
    gguf,
)
from tests.support.gguf_reading import header_of, read_error

VOCABULARY: dict[str, Any] = {"tokenizer.ggml.tokens": ["<s>", "猫", ""], "tokenizer.ggml.bos_token_id": 1}


def reader_of(content: bytes, size: int | None = None) -> BoundedReader:
    """Return a reader of `content`, which claims to have `size` bytes."""
    return BoundedReader(io.BytesIO(content), len(content) if size is None else size)


def encode(values: dict[str, Any]) -> bytes:
    return b"".join(gguf_files.entry(key, value) for key, value in values.items())


def metadata_of(values: dict[str, Any]) -> Metadata:
    return read_metadata(reader_of(encode(values)), len(values))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (U8, 255),
        (I8, -128),
        (U16, 65535),
        (I16, -32768),
        (U32, (1 << 32) - 1),
        (I32, -(1 << 31)),
        (F32, 0.5),
        (BOOL, True),
        (U64, (1 << 64) - 1),
        (I64, -(1 << 63)),
        (F64, 0.1),
    ],
)
def test_a_value_of_each_number_type_is_read(kind: int, value: object) -> None:
    assert metadata_of({"x": As(kind, value)}) == {"x": value}


def test_only_strings_that_are_needed_are_kept() -> None:
    values = {"general.name": "猫", "llama.rope.scaling.type": "linear", "general.description": "long"}
    expected = {"general.name": "猫", "llama.rope.scaling.type": "linear", "general.description": None}
    assert metadata_of(values) == expected


def test_metadata_truncated_at_any_byte_is_incomplete() -> None:
    values = {"general.name": "Tiny", "n": 7, "list": [1, 2], "tokens": ["a", "b"], "nested": [[1], [2]]}
    content = encode(values)
    assert list(read_metadata(reader_of(content), len(values))) == list(values)
    for length in range(len(content)):
        with pytest.raises(FormatError):
            read_metadata(reader_of(content[:length]), len(values))
    with pytest.raises(FormatError, match=f"ends within its header, after {len(content) - 1} bytes") as caught:
        read_metadata(reader_of(content[:-1], len(content) - 1), len(values))
    assert caught.value.kind is IncompleteModel


def test_a_key_longer_than_the_limit_is_refused() -> None:
    key = "k" * 65_536
    with pytest.raises(FormatError, match="a string claims 65,536 bytes"):
        metadata_of({key: 1})
    assert metadata_of({key[1:]: 1}) == {key[1:]: 1}


@pytest.mark.parametrize(("kind", "size"), [(TEXT, 8), (ARRAY, 8), (U8, 1), (F64, 8)])
def test_an_array_that_cannot_fit_into_the_file_is_refused(kind: int, size: int) -> None:
    content = gguf_files.entry("x", As(ARRAY, array(kind, [], 1000)))
    with pytest.raises(FormatError, match="'x' claims 1,000 items"):
        read_metadata(reader_of(content, 1000 * size - 1), 1)
    with pytest.raises(FormatError, match="ends within its header"):
        read_metadata(reader_of(content, 1000 * size), 1)


def test_an_array_of_too_many_strings_is_refused_even_in_a_huge_file() -> None:
    content = gguf_files.entry("x", As(ARRAY, array(TEXT, [], (1 << 24) + 1)))
    with pytest.raises(FormatError, match="'x' claims 16,777,217 items"):
        read_metadata(reader_of(content, 1 << 40), 1)


def test_the_scale_of_a_lora_must_be_a_float32() -> None:
    """llama.cpp would abort the process for another type."""
    assert metadata_of({"adapter.lora.alpha": 16.0}) == {"adapter.lora.alpha": 16.0}
    with pytest.raises(FormatError, match=r"'adapter\.lora\.alpha' is not of the type float32"):
        metadata_of({"adapter.lora.alpha": As(F64, 16.0)})


def test_missing_values_have_defaults() -> None:
    assert (get_string({}, "x"), get_flag({}, "x"), get_number({}, "x")) == ("", None, 0.0)
    assert (get_integer({}, "x"), get_integer({}, "x", -1), get_numbers({}, "llama.")) == (0, -1, {})
    assert read_special_tokens(reader_of(b""), {}) == {}


def test_an_integer_may_be_as_low_as_its_default_and_below_32_bits() -> None:
    assert get_integer({"x": -1}, "x", -1) == -1 and get_integer({"x": (1 << 32) - 1}, "x") == (1 << 32) - 1
    for value in (-1, 1 << 32, True, 1.0, "1", None, (1, -2, 1 << 32)):
        with pytest.raises(FormatError, match="'x' should be an integer"):
            get_integer({"x": value}, "x")


def test_a_number_is_finite_and_not_negative() -> None:
    assert get_number({"x": 3}, "x") == 3.0 and get_number({"x": 0.5}, "x") == 0.5
    for value in (-0.5, 1e30, float("inf"), float("nan"), False, "1", (1,)):
        with pytest.raises(FormatError, match="'x' should be a number"):
            get_number({"x": value}, "x")


def test_numbers_are_returned_without_the_prefix_of_the_architecture() -> None:
    metadata = metadata_of({"llama.n": 1, "llama.flag": True, "llama.base": 0.5, "general.name": "x", **VOCABULARY})
    assert get_numbers(metadata, "llama.") == {
        "n": 1,
        "flag": True,
        "tokenizer.ggml.tokens": 3,
        "tokenizer.ggml.bos_token_id": 1,
    }


def test_the_texts_of_special_tokens_are_read_from_the_vocabulary() -> None:
    ids = {"tokenizer.ggml.padding_token_id": 1, "tokenizer.ggml.unknown_token_id": 0}
    content = encode(VOCABULARY | ids)
    reader = reader_of(content)
    metadata = read_metadata(reader, len(VOCABULARY | ids))
    assert read_special_tokens(reader, metadata) == {"bos_token": "猫", "unk_token": "<s>", "pad_token": "猫"}
    numbers = metadata_of(VOCABULARY | {"tokenizer.ggml.tokens": [1, 2, 3]})
    assert read_special_tokens(reader, numbers) == {}


def test_the_templates_of_a_file_are_read_by_name() -> None:
    named = {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "{{ tools }}"}
    header = header_of(gguf(MODEL | named))
    assert (header.chat_template, header.named_templates) == ("{{ messages }}", {"tool_use": "{{ tools }}"})


# -- through the header -----------------------------------------------------------------------------------------------


def test_the_largest_of_several_head_counts_is_used() -> None:
    header = header_of(gguf(MODEL | {"llama.attention.head_count_kv": As(ARRAY, array(I32, [0, 8, 2]))}))
    assert header.head_count_kv == 8


def test_lists_of_up_to_1024_numbers_or_flags_are_kept() -> None:
    lists = {"llama.heads": array(I32, [0, 8, 2]), "llama.slides": array(BOOL, [True, False])}
    skipped = {"llama.long": array(U8, [0] * 1025), "llama.scales": array(F32, [0.5] * 3)}
    header = header_of(gguf(MODEL | {key: As(ARRAY, body) for key, body in (lists | skipped).items()}))
    assert (header.numbers["heads"], header.numbers["slides"]) == ((0, 8, 2), (1, 0))
    assert (header.numbers["long"], header.numbers["scales"]) == (1025, 3)


def test_a_token_that_the_vocabulary_lacks_has_no_text() -> None:
    for index, text in ((4, None), (As(I32, -1), None), (3, "猫")):
        header = header_of(gguf(MODEL | {"tokenizer.ggml.bos_token_id": index}))
        assert header.special_tokens.get("bos_token") == text and header.special_tokens["eos_token"] == "</s>"


def test_nested_arrays_are_skipped_up_to_a_depth() -> None:
    nested = array(U8, [1, 2, 3])
    for _ in range(3):
        nested = array(ARRAY, [nested, nested])
    assert header_of(gguf(MODEL | {"x": As(ARRAY, nested)})).architecture == "llama"
    deeper = As(ARRAY, array(ARRAY, [nested]))
    assert "nests arrays too deep" in read_error(gguf(MODEL | {"x": deeper}))


def test_a_false_length_among_many_strings_is_refused() -> None:
    for length in (1 << 30, (1 << 64) - 1):
        tokens = array(TEXT, ["a", Raw(struct.pack("<Q", length)), "b"])
        assert "ends within its header" in read_error(gguf({"tokenizer.ggml.tokens": As(ARRAY, tokens)}))


def test_a_false_count_allocates_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf({"x": As(ARRAY, array(TEXT, ["a"], 1 << 24))}))
    with path.open("r+b") as file:
        file.truncate(1 << 36)  # sparse, and large enough for the false count to be possible
    tracemalloc.start()
    with pytest.raises(ModelProblem):
        read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


INVALID_VALUES: list[tuple[dict[str, object], str]] = [
    ({"general.architecture": 5}, "'general.architecture' should be a string, but is 5"),
    ({"general.name": ["a"]}, "'general.name' should be a string, but is a list"),
    ({"llama.context_length": "4096"}, "'llama.context_length' should be an integer, but is a string"),
    ({"llama.context_length": True}, "should be an integer, but is True"),
    ({"llama.block_count": 2.5}, "should be an integer, but is 2.5"),
    ({"llama.block_count": As(I32, -2)}, "should be an integer, but is -2"),
    ({"llama.rope.freq_base": "x"}, "'llama.rope.freq_base' should be a number, but is a string"),
    ({"llama.rope.freq_base": float("nan")}, "should be a number, but is nan"),
    ({"llama.rope.freq_base": float("inf")}, "should be a number, but is inf"),
    ({"tokenizer.ggml.add_bos_token": 1}, "should be true or false, but is 1"),
    ({"tokenizer.chat_template": False}, "should be a string, but is False"),
    ({"x": As(13, Raw())}, "'x' has the unknown type 13"),
    ({"x": As(ARRAY, Raw(array(13, [], 2) + bytes(8)))}, "'x' has items of the unknown type 13"),
    ({"general.name": b"\xff\xfe"}, "is not valid UTF-8"),
]


def test_an_invalid_value_is_refused_with_its_key(subtests: pytest.Subtests) -> None:
    for changes, message in INVALID_VALUES:
        with subtests.test(changes=changes, message=message):
            assert message in read_error(gguf(MODEL | changes))


def test_an_invalid_or_duplicate_key_is_refused() -> None:
    assert "UTF-8" in read_error(gguf().replace(b"general.name", b"general.\xffame"))
    assert "twice" in read_error(gguf({"aa": 1, "ab": 2}).replace(b"ab", b"aa"))
