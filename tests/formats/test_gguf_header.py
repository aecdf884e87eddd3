"""Headers of GGUF files, valid and invalid."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from modules.core.errors import LANGUAGES, ModelProblem
from modules.formats.gguf_header import GgufHeader, read_header
from tests.support.gguf_files import ARRAY, BOOL, F32, I32, MODEL, TENSORS, TEXT, U8, U32, As, Raw, Tensor, array, gguf


def header(tmp_path: Path, content: bytes) -> GgufHeader:
    path = tmp_path / "model.gguf"
    path.touch()
    # Unlike write_bytes this never truncates to nothing, after which ext4 would flush the file for some milliseconds.
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    return read_header(path)


def complaint(tmp_path: Path, content: bytes) -> str:
    """Return the English message, after checking that the Chinese one is Chinese."""
    with pytest.raises(ModelProblem) as caught:
        header(tmp_path, content)
    assert caught.value.file == "model.gguf"
    assert any("一" <= letter <= "鿿" for letter in caught.value.say("zh"))
    return caught.value.say("en")


def test_a_header_gives_the_facts_of_the_model(tmp_path: Path) -> None:
    content = gguf()
    assert header(tmp_path, content) == GgufHeader(
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
        bos_token="<s>",
        eos_token="</s>",
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
    )


def test_a_real_model_is_read(smollm2: Path) -> None:
    found = read_header(smollm2)
    assert (found.architecture, found.quantization, found.context_length) == ("llama", "Q4_1", 8192)
    assert (found.block_count, found.head_count, found.head_count_kv) == (30, 9, 3)
    assert (found.tensor_count, found.parameters, found.size) == (272, 134_515_008, 98_362_432)
    assert (found.bos_token, found.eos_token, found.add_bos) == ("<|im_start|>", "<|im_end|>", False)
    assert "<|im_start|>assistant" in found.chat_template


def test_a_real_model_without_its_last_byte_is_truncated(smollm2: Path, tmp_path: Path) -> None:
    head = smollm2.read_bytes()[:5_000_000]
    assert "truncated: 98,362,432 bytes expected, 5,000,000 present" in complaint(tmp_path, head)
    path = tmp_path / "model.gguf"
    with path.open("r+b") as file:
        file.truncate(98_362_432)  # sparse: the size is what counts
    assert read_header(path).tensor_count == 272
    with path.open("r+b") as file:
        file.truncate(98_362_431)
    with pytest.raises(ModelProblem, match="98,362,432 bytes expected, 98,362,431 present"):
        read_header(path)


def test_version_2_is_read_like_version_3(tmp_path: Path) -> None:
    assert header(tmp_path, gguf(version=2)).parameters == 320


def test_missing_values_are_zero_or_empty(tmp_path: Path) -> None:
    found = header(tmp_path, gguf({"general.architecture": "rwkv"}, ()))
    assert (found.context_length, found.rope_freq_base, found.rope_scale, found.add_bos) == (0, 0.0, 1.0, None)
    assert (found.name, found.bos_token, found.quantization, found.parameters) == ("", "", "", 0)


def test_without_a_file_type_the_tensors_with_most_bytes_name_the_quantization(tmp_path: Path) -> None:
    metadata = {key: value for key, value in MODEL.items() if key != "general.file_type"}
    assert header(tmp_path, gguf(metadata)).quantization == "Q8_0"
    assert header(tmp_path, gguf(metadata | {"general.file_type": 999})).quantization == "Q8_0"
    assert header(tmp_path, gguf(metadata | {"general.file_type": 1024 + 7})).quantization == "Q8_0"


def test_of_one_head_count_per_layer_the_largest_counts(tmp_path: Path) -> None:
    found = header(tmp_path, gguf(MODEL | {"llama.attention.head_count_kv": As(ARRAY, array(I32, [0, 8, 2]))}))
    assert found.head_count_kv == 8


def test_lists_of_numbers_and_flags_are_kept_up_to_a_length(tmp_path: Path) -> None:
    lists = {"llama.heads": array(I32, [0, 8, 2]), "llama.slides": array(BOOL, [True, False])}
    long = {"llama.long": array(U8, [0] * 1025), "llama.scales": array(F32, [0.5] * 3)}
    found = header(tmp_path, gguf(MODEL | {key: As(ARRAY, body) for key, body in (lists | long).items()}))
    assert (found.numbers["heads"], found.numbers["slides"]) == ((0, 8, 2), (1, 0))
    assert (found.numbers["long"], found.numbers["scales"]) == (1025, 3)


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, 4.0),
        ({"llama.rope.scaling.factor": 4.0}, 4.0),
        ({"llama.rope.scale_linear": 2.0}, 2.0),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, 1.0),
    ],
)
def test_rope_scale_is_the_factor_of_linear_scaling_alone(
    tmp_path: Path, metadata: dict[str, object], scale: float
) -> None:
    assert header(tmp_path, gguf(MODEL | metadata)).rope_scale == scale


def test_a_token_that_the_vocabulary_lacks_has_no_text(tmp_path: Path) -> None:
    assert header(tmp_path, gguf(MODEL | {"tokenizer.ggml.bos_token_id": 4})).bos_token == ""
    assert header(tmp_path, gguf(MODEL | {"tokenizer.ggml.bos_token_id": As(I32, -1)})).bos_token == ""
    assert header(tmp_path, gguf(MODEL | {"tokenizer.ggml.bos_token_id": 3})).bos_token == "猫"


def test_a_large_vocabulary_is_read_in_a_quarter_of_a_second(tmp_path: Path) -> None:
    tokens = [f"token{number}" for number in range(128_256)]
    merges = [f"to {number}" for number in range(280_000)]
    many = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": 128_009}
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(MODEL | many))
    took = []
    for _ in range(5):
        begun = time.process_time()
        assert read_header(path).eos_token == "token128009"
        took.append(time.process_time() - begun)
    assert min(took) < 0.25  # it takes 0.11 s beside two other processes


def test_strings_across_the_end_of_the_window_are_read_whole(tmp_path: Path) -> None:
    metadata = MODEL | {"general.description": "x" * ((1 << 20) - 700), "tokenizer.chat_template": "y" * 3_000_000}
    found = header(tmp_path, gguf(metadata))
    assert found.chat_template == "y" * 3_000_000
    assert found.eos_token == "</s>"


def test_nested_arrays_are_skipped_up_to_a_depth(tmp_path: Path) -> None:
    nested = array(U8, [1, 2, 3])
    for _ in range(3):
        nested = array(ARRAY, [nested, nested])
    assert header(tmp_path, gguf(MODEL | {"x": As(ARRAY, nested)})).architecture == "llama"
    deeper = As(ARRAY, array(ARRAY, [nested]))
    assert "nests arrays too deep" in complaint(tmp_path, gguf(MODEL | {"x": deeper}))


def test_a_part_of_a_split_model_states_its_number(tmp_path: Path) -> None:
    found = header(tmp_path, gguf({"split.no": As(2, 1), "split.count": As(2, 3)}, ()))
    assert (found.split_no, found.split_count) == (1, 3)


FOREIGN = [
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


def test_a_file_of_another_format_is_recognized_and_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (content, words) in enumerate(FOREIGN):
        with subtests.test(content=content[:60], words=words):
            folder = tmp_path / str(number)
            folder.mkdir()
            assert words in complaint(folder, content)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (0, "GGUF version 0 is too old"),
        (1, "GGUF version 1 is too old: 2 or 3 is needed"),
        (4, "GGUF version 4 is newer than this program"),
        (3 << 24, "big-endian"),
    ],
)
def test_other_versions_are_refused_with_a_remedy(tmp_path: Path, version: int, words: str) -> None:
    assert words in complaint(tmp_path, gguf(version=version))


def test_a_truncated_file_is_reported_as_truncated(tmp_path: Path) -> None:
    content = gguf()
    words = complaint(tmp_path, content[:-300])
    assert f"truncated: {len(content):,} bytes expected, {len(content) - 300:,} present" in words


def test_a_file_cut_at_any_byte_is_refused_and_a_whole_one_is_read(tmp_path: Path) -> None:
    content = gguf()
    for length in range(len(content)):
        complaint(tmp_path, content[:length])
    assert header(tmp_path, content + b"more").parameters == 320


@pytest.mark.parametrize("lie", [10**5, 1 << 40, (1 << 64) - 1])
def test_false_counts_are_refused(tmp_path: Path, lie: int) -> None:
    assert "entries" in complaint(tmp_path, gguf(entries=lie))
    assert "tensors" in complaint(tmp_path, gguf(count=lie))
    assert "items" in complaint(tmp_path, gguf(MODEL | {"x": As(ARRAY, array(TEXT, ["a"], lie))}))
    assert "items" in complaint(tmp_path, gguf(MODEL | {"x": As(ARRAY, array(F32, [1.0], lie))}))
    assert "items" in complaint(tmp_path, gguf(MODEL | {"x": As(ARRAY, array(ARRAY, [], lie))}))
    assert "a string claims" in complaint(tmp_path, gguf({"general.name": As(TEXT, Raw(struct.pack("<Q", lie)))}))


def test_a_false_length_among_many_strings_is_refused(tmp_path: Path) -> None:
    for lie in (1 << 30, (1 << 64) - 1):
        tokens = array(TEXT, ["a", Raw(struct.pack("<Q", lie)), "b"])
        assert "ends within its header" in complaint(tmp_path, gguf({"tokenizer.ggml.tokens": As(ARRAY, tokens)}))


def test_a_false_count_allocates_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf({"x": As(ARRAY, array(TEXT, ["a"], 1 << 24))}))
    with path.open("r+b") as file:
        file.truncate(1 << 36)  # sparse, and so large that the lie could be true
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
    ({"general.alignment": 0}, "its alignment is 0, not a power of two"),
    ({"general.alignment": 48}, "its alignment is 48, not a power of two"),
    ({"x": As(13, Raw())}, "'x' has the unknown type 13"),
    ({"x": As(ARRAY, Raw(array(13, [], 2) + bytes(8)))}, "'x' has items of the unknown type 13"),
    ({"general.name": b"\xff\xfe"}, "is not valid UTF-8"),
]


def test_an_invalid_value_is_refused_with_its_key(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (changes, words) in enumerate(INVALID_VALUES):
        with subtests.test(changes=changes, words=words):
            folder = tmp_path / str(number)
            folder.mkdir()
            assert words in complaint(folder, gguf(MODEL | changes))


def test_a_key_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    assert "UTF-8" in complaint(tmp_path, gguf().replace(b"general.name", b"general.\xffame"))
    assert "twice" in complaint(tmp_path, gguf({"aa": 1, "ab": 2}).replace(b"ab", b"aa"))


IMPOSSIBLE = [
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


def test_an_invalid_tensor_is_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (tensor, words) in enumerate(IMPOSSIBLE):
        with subtests.test(tensor=tensor, words=words):
            folder = tmp_path / str(number)
            folder.mkdir()
            assert words in complaint(folder, gguf(tensors=[*TENSORS, tensor]))


def test_a_tensor_type_newer_than_this_program_is_accepted(tmp_path: Path) -> None:
    tensors = [*TENSORS, Tensor("t", (99,), 77)]
    assert header(tmp_path, gguf(tensors=tensors)).parameters == 320 + 99
    assert "unknown type 77" in complaint(tmp_path, gguf(tensors=tensors, version=2))


def test_the_alignment_shifts_the_tensor_data(tmp_path: Path) -> None:
    content = gguf(MODEL | {"general.alignment": 4096})
    assert header(tmp_path, content).parameters == 320
    assert "truncated" in complaint(tmp_path, content[:-4000])


def test_a_long_key_is_shortened_in_the_message(tmp_path: Path) -> None:
    assert len(complaint(tmp_path, gguf({"k" * 60_000: As(99, Raw())}))) < 300


def test_a_missing_file_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "nowhere.gguf")


def test_a_mutated_file_is_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(20240527)
    nested = {"llama.attention.head_count": [8, 8], "n": As(ARRAY, array(ARRAY, [array(U32, [1]), array(TEXT, ["a"])]))}
    whole = gguf(MODEL | nested)
    read = damaged = 0
    for _ in range(6000):
        try:
            json.dumps(vars(header(tmp_path, _mutated(whole, chance))), allow_nan=False).encode()
            read += 1
        except ModelProblem as error:
            assert all(error.say(language).encode() for language in LANGUAGES)
            damaged += 1
    assert read > 100 and damaged > 1000


def _mutated(content: bytes, chance: random.Random) -> bytes:
    raw = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(raw))
        match chance.randrange(5):
            case 0:
                raw[place] ^= 1 << chance.randrange(8)
            case 1:
                raw[place] = chance.randrange(256)
            case 2:
                raw[place : place + 8] = struct.pack("<Q", chance.choice((0, 1, 1 << 31, 1 << 63, (1 << 64) - 1)))
            case 3:
                del raw[place : place + chance.randrange(1, 40)]
            case 4:
                raw[place:place] = chance.randbytes(chance.randrange(1, 40))
        raw = raw or bytearray(b"G")
    return bytes(raw)
