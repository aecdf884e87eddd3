"""Valid and invalid headers of GGUF files. tests/formats/test_gguf_metadata.py tests their metadata."""

from __future__ import annotations

import json
import random
import struct
import time
from pathlib import Path

import pytest

from modules.core.errors import LANGUAGES, ModelProblem
from modules.formats.gguf_header import GgufHeader, read_header
from tests.support.gguf_files import ARRAY, F32, MODEL, TENSORS, TEXT, U32, As, Raw, Tensor, array, gguf
from tests.support.gguf_reading import header_of, read_error


def test_a_header_describes_the_model() -> None:
    content = gguf()
    assert header_of(content) == GgufHeader(
        version=3,
        architecture="llama",
        name="Tiny",
        context_length=4096,
        block_count=2,
        embedding_length=64,
        head_count=8,
        head_count_kv=4,
        key_length=0,
        value_length=0,
        rope_freq_base=500000.0,
        rope_scale=1.0,
        quantization="Q4_K_M",
        chat_template="{{ messages }}",
        add_bos=True,
        tensor_count=2,
        parameters=320,
        size=len(content),
        split_count=0,
        split_no=0,
        numbers={
            "general.file_type": 15,
            "context_length": 4096,
            "block_count": 2,
            "embedding_length": 64,
            "attention.head_count": 8,
            "attention.head_count_kv": 4,
            "tokenizer.ggml.tokens": 4,
            "tokenizer.ggml.scores": 4,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.add_bos_token": True,
        },
        sizes={"token_embd": 272, "output_norm": 256},
        long_strings={"tokenizer.ggml.tokens": 0},
        special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
    )


def test_the_bytes_of_strings_that_take_memory_of_their_own_are_counted() -> None:
    tokens = ["a" * 15, "b" * 16, "猫" * 5, "狗" * 6]
    assert header_of(gguf({**MODEL, "tokenizer.ggml.tokens": tokens})).long_strings == {
        "tokenizer.ggml.tokens": 16 + 18
    }


def test_a_real_model_is_read(smollm2: Path) -> None:
    header = read_header(smollm2)
    assert (header.architecture, header.quantization, header.context_length) == ("llama", "Q4_1", 8192)
    assert (header.block_count, header.head_count, header.head_count_kv) == (30, 9, 3)
    assert (header.tensor_count, header.parameters, header.size) == (272, 134_515_008, 98_362_432)
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    assert [header.special_tokens[name] for name in names] == [
        *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_end|>")
    ]
    assert header.add_bos is False
    assert "<|im_start|>assistant" in header.chat_template


def test_a_real_model_without_its_last_byte_is_truncated(smollm2: Path, tmp_path: Path) -> None:
    head = smollm2.read_bytes()[:5_000_000]
    assert "truncated: 98,362,432 bytes expected, 5,000,000 present" in read_error(head)
    path = tmp_path / "model.gguf"
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(98_362_432)  # sparse; only the size matters
    assert read_header(path).tensor_count == 272
    with path.open("r+b") as file:
        file.truncate(98_362_431)
    with pytest.raises(ModelProblem, match="98,362,432 bytes expected, 98,362,431 present"):
        read_header(path)


def test_version_2_is_read_like_version_3() -> None:
    assert header_of(gguf(version=2)).parameters == 320


def test_missing_values_are_zero_or_empty() -> None:
    header = header_of(gguf({"general.architecture": "rwkv"}, ()))
    assert (header.context_length, header.rope_freq_base, header.rope_scale, header.add_bos) == (0, 0.0, 1.0, None)
    assert (header.name, header.special_tokens, header.quantization, header.parameters) == ("", {}, "", 0)


def test_without_a_file_type_the_quantization_is_the_tensor_type_with_most_bytes() -> None:
    metadata = {key: value for key, value in MODEL.items() if key != "general.file_type"}
    assert header_of(gguf(metadata)).quantization == "Q8_0"
    assert header_of(gguf(metadata | {"general.file_type": 999})).quantization == "Q8_0"
    assert header_of(gguf(metadata | {"general.file_type": 1024 + 7})).quantization == "Q8_0"


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, 4.0),
        ({"llama.rope.scaling.factor": 4.0}, 4.0),
        ({"llama.rope.scale_linear": 2.0}, 2.0),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, 1.0),
    ],
)
def test_rope_scale_is_the_factor_of_linear_scaling_only(metadata: dict[str, object], scale: float) -> None:
    assert header_of(gguf(MODEL | metadata)).rope_scale == scale


def test_a_large_vocabulary_is_read_in_a_quarter_of_a_second(tmp_path: Path) -> None:
    tokens = [f"token{number}" for number in range(128_256)]
    merges = [f"to {number}" for number in range(280_000)]
    vocabulary = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 128_009,
    }
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(MODEL | vocabulary))
    durations = []
    for _ in range(5):
        started = time.process_time()
        assert read_header(path).special_tokens["eos_token"] == "token128009"
        durations.append(time.process_time() - started)
    assert min(durations) < 0.25  # 0.11 s while two other processes run


def test_strings_across_the_end_of_the_window_are_read_whole() -> None:
    metadata = MODEL | {"general.description": "x" * ((1 << 20) - 700), "tokenizer.chat_template": "y" * 3_000_000}
    header = header_of(gguf(metadata))
    assert header.chat_template == "y" * 3_000_000
    assert header.special_tokens["eos_token"] == "</s>"


def test_a_part_of_a_split_model_states_its_number() -> None:
    header = header_of(gguf({"split.no": As(2, 1), "split.count": As(2, 3)}, ()))
    assert (header.split_no, header.split_count) == (1, 3)


OTHER_FORMATS = [
    (b"", "an empty file"),
    (b"GG", "ends within its header, after 2 bytes"),
    (b"GGUF", "ends within its header, after 4 bytes"),
    (gguf()[:20], "ends within its header, after 20 bytes"),
    (bytes(4096), "but zeros, as an unfinished"),
    (b"PK\x03\x04" + bytes(60), "PyTorch checkpoint"),
    (b"\x80\x02\x8a\nl\xfc\x9cF", "PyTorch checkpoint"),
    (struct.pack("<Q", 2) + b"{}", "safetensors"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
    (b"<!DOCTYPE html><html></html>", "web page"),
    (b"\xef\xbb\xbf\n <HTML>", "web page"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
    (b'{"error": "Invalid username or password."}', "JSON text"),
    (b"lmgg" + bytes(60), "old GGML format, which is no longer supported"),
    (b"fmgg\x01" + bytes(60), "old GGML format"),
    (b"tjgg\x03" + bytes(60), "get this model as GGUF"),
    (b"Access denied", "it begins with b'Access d'"),
]


def test_a_file_of_another_format_is_recognized_and_refused(subtests: pytest.Subtests) -> None:
    for content, message in OTHER_FORMATS:
        with subtests.test(content=content[:60], message=message):
            assert message in read_error(content)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (0, "GGUF version 0 is too old"),
        (1, "GGUF version 1 is too old: 2 or 3 is needed"),
        (4, "GGUF version 4 is newer than this program"),
        (3 << 24, "big-endian"),
    ],
)
def test_other_versions_are_refused_with_a_remedy(version: int, message: str) -> None:
    assert message in read_error(gguf(version=version))


def test_a_truncated_file_is_reported_as_truncated() -> None:
    content = gguf()
    message = read_error(content[:-300])
    assert f"truncated: {len(content):,} bytes expected, {len(content) - 300:,} present" in message


def test_a_file_truncated_at_any_byte_is_refused_and_a_longer_one_is_read() -> None:
    content = gguf()
    for length in range(len(content)):
        read_error(content[:length])
    assert header_of(content + b"trailing bytes").parameters == 320


@pytest.mark.parametrize("count", [10**5, 1 << 40, (1 << 64) - 1])
def test_false_counts_are_refused(count: int) -> None:
    assert "entries" in read_error(gguf(entries=count))
    assert "tensors" in read_error(gguf(count=count))
    assert "items" in read_error(gguf(MODEL | {"x": As(ARRAY, array(TEXT, ["a"], count))}))
    assert "items" in read_error(gguf(MODEL | {"x": As(ARRAY, array(F32, [1.0], count))}))
    assert "items" in read_error(gguf(MODEL | {"x": As(ARRAY, array(ARRAY, [], count))}))
    assert "a string claims" in read_error(gguf({"general.name": As(TEXT, Raw(struct.pack("<Q", count)))}))


INVALID_TENSORS = [
    (Tensor("t", (64, 1 << 40)), "truncated"),
    (Tensor("t", (64,), offset=1 << 30), "truncated"),
    (Tensor("t", (1 << 33, 1 << 33)), "invalid dimensions [8589934592, 8589934592]"),
    (Tensor("t", (64, 0)), "invalid dimensions [64, 0]"),
    (Tensor("t", (1, 1, 1, 1, 1)), "invalid dimensions"),
    (Tensor("t", (33,), 8), "invalid dimensions [33]"),
    (Tensor("t", (32,), offset=7), "'t' is not aligned"),
    (Tensor("t", (32,), 31), "type Q4_0_4_4, which llama.cpp has removed. Get this model as Q4_0"),
    (Tensor("t", (32,), 1 << 20), "'t' has the unknown type 1048576"),
    (TENSORS[0], "the tensor 'token_embd.weight' occurs twice"),
]


def test_an_invalid_tensor_is_refused(subtests: pytest.Subtests) -> None:
    for tensor, message in INVALID_TENSORS:
        with subtests.test(tensor=tensor, message=message):
            assert message in read_error(gguf(tensors=[*TENSORS, tensor]))


def test_a_tensor_type_that_llama_cpp_does_not_know_is_named() -> None:
    tensors = [*TENSORS, Tensor("t", (99,), 77)]
    assert "of type 77, which this program's llama.cpp does not know" in read_error(gguf(tensors=tensors))
    assert "unknown type 77" in read_error(gguf(tensors=tensors, version=2))
    for number, name in ((139, "IQ4_K"), (156, "IQ3_KS"), (339, "IQ4_K_R4")):
        message = read_error(gguf(tensors=[*TENSORS, Tensor("t", (256,), number)]))
        assert f"of type {name} ({number}), which only ik_llama.cpp knows" in message


@pytest.mark.parametrize("alignment", [0, 48])
def test_an_alignment_that_is_no_power_of_two_is_refused(alignment: int) -> None:
    message = read_error(gguf(MODEL | {"general.alignment": alignment}))
    assert f"its alignment is {alignment}, not a power of two" in message


def test_the_alignment_shifts_the_tensor_data() -> None:
    content = gguf(MODEL | {"general.alignment": 4096})
    assert header_of(content).parameters == 320
    assert "truncated" in read_error(content[:-4000])


def test_a_long_key_is_shortened_in_the_message() -> None:
    assert len(read_error(gguf({"k" * 60_000: As(99, Raw())}))) < 300


def test_a_missing_file_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "missing.gguf")


def test_a_mutated_file_is_read_or_refused() -> None:
    generator = random.Random(20240527)
    nested = {"llama.attention.head_count": [8, 8], "n": As(ARRAY, array(ARRAY, [array(U32, [1]), array(TEXT, ["a"])]))}
    content = gguf(MODEL | nested)
    read_count = damaged_count = 0
    for _ in range(6000):
        try:
            json.dumps(vars(header_of(_mutated(content, generator))), allow_nan=False).encode()
            read_count += 1
        except ModelProblem as error:
            assert all(error.say(language).encode() for language in LANGUAGES)
            damaged_count += 1
    assert read_count > 100 and damaged_count > 1000


def _mutated(content: bytes, generator: random.Random) -> bytes:
    raw = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 5))):
        offset = generator.randrange(len(raw))
        match generator.randrange(5):
            case 0:
                raw[offset] ^= 1 << generator.randrange(8)
            case 1:
                raw[offset] = generator.randrange(256)
            case 2:
                raw[offset : offset + 8] = struct.pack("<Q", generator.choice((0, 1, 1 << 31, 1 << 63, (1 << 64) - 1)))
            case 3:
                del raw[offset : offset + generator.randrange(1, 40)]
            case 4:
                raw[offset:offset] = generator.randbytes(generator.randrange(1, 40))
        raw = raw or bytearray(b"G")
    return bytes(raw)
