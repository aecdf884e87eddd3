"""Headers of .safetensors files, and the check of PyTorch's files without unpickling them."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import DamagedModel, IncompleteModel, ModelProblem
from modules.formats import json_file, safetensors_header
from modules.formats.model_shape import TensorSizes
from modules.formats.quantization import Packing
from modules.formats.safetensors_header import (
    StoredTensor,
    WeightHeader,
    read_safetensors_table,
    read_weight_header,
)
from tests.support.checkpoint_files import safetensors, tensors

ENTRY: dict[str, Any] = {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}


def encode(table: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a .safetensors file whose header states `length`, by default that of its JSON."""
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def write(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    path = folder / name
    path.unlink(missing_ok=True)  # ext4 would flush a file that is truncated to 0 bytes and written again
    path.write_bytes(content)
    return path


def refusal(path: Path, kind: type[ModelProblem]) -> str:
    """Return the English error message of both readers, after checking that it names the file."""
    with pytest.raises(ModelProblem) as caught:
        read_safetensors_table(path)
    with pytest.raises(kind) as caught_too:
        read_weight_header(path)
    assert type(caught.value) is type(caught_too.value) and caught.value.say("en") == caught_too.value.say("en")
    assert path.name in caught.value.say("zh")
    return caught.value.say("en")


def test_tensors_are_listed_with_their_offset_in_the_file(tmp_path: Path) -> None:
    content = tensors({"a.weight": (4, 8), "b": (3,), "scalar": ()})
    start = len(content) - 2 * (32 + 3 + 1)
    assert read_safetensors_table(write(tmp_path, content)) == {
        "a.weight": StoredTensor("BF16", (4, 8), start, 64),
        "b": StoredTensor("BF16", (3,), start + 64, 6),
        "scalar": StoredTensor("BF16", (), start + 70, 2),
    }


def test_the_header_contains_the_sizes_and_the_packing(tmp_path: Path) -> None:
    plain = read_weight_header(write(tmp_path, tensors({"layer.weight": (4, 8), "layer.bias": (4,)})))
    assert plain == WeightHeader(TensorSizes(elements=36, linear_elements=32, largest_linear=32, dtype="BF16"))
    shapes = {"layer.qweight": (32, 96), "layer.qzeros": (2, 12), "layer.scales": (2, 96), "layer.g_idx": (256,)}
    assert read_weight_header(write(tmp_path, tensors(shapes))).packing == Packing("gptq", 4, 128)


def test_a_file_without_tensors_is_valid(tmp_path: Path) -> None:
    path = write(tmp_path, encode({"__metadata__": {"format": "pt"}}))
    assert read_safetensors_table(path) == {} and read_weight_header(path) == WeightHeader()


def test_a_header_survives_serialization_to_json(tmp_path: Path) -> None:
    header = read_weight_header(write(tmp_path, safetensors(4, 8)))
    assert WeightHeader.from_json(json.loads(json.dumps(dataclasses.asdict(header)))) == header


def test_a_file_truncated_at_any_byte_is_refused(tmp_path: Path) -> None:
    content = safetensors(4, 8)
    header_length = len(content) - 64
    path = write(tmp_path, content)
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        message = refusal(path, ModelProblem)
        if length >= header_length:
            assert f"truncated: {len(content)} bytes expected, {length} present" in message
        elif length >= 9:
            assert f"ends within its header, after {length} bytes" in message
    assert read_safetensors_table(write(tmp_path, content + b"trailing bytes"))


@pytest.mark.parametrize(
    ("content", "message", "kind"),
    [
        (b"", "not a safetensors file but an empty file", IncompleteModel),
        (bytes(1000), "not a safetensors file but zeros", IncompleteModel),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer", IncompleteModel),
        (b"<!doctype html><html>", "a web page", DamagedModel),
        (b"PK\x03\x04" + bytes(60), "a PyTorch checkpoint", DamagedModel),
        (b"GGUF" + bytes(60), "a GGUF file", DamagedModel),
        (encode([1]), "not a safetensors file", DamagedModel),
        (encode({}, length=3), "ends within its header, after 10 bytes", IncompleteModel),
        (encode({}, length=1 << 60), "not a safetensors file", DamagedModel),
        (encode({}, length=0), "the JSON is invalid or breaks off at line 1, column 1", DamagedModel),
        (struct.pack("<Q", 3) + b"{,}", "the JSON is invalid", DamagedModel),
    ],
)
def test_a_file_of_another_format_is_refused(
    tmp_path: Path, content: bytes, message: str, kind: type[ModelProblem]
) -> None:
    assert message in refusal(write(tmp_path, content), kind)


def test_a_header_above_the_limit_of_the_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tensors({f"layer.{number}": (1,) for number in range(20)})
    for module in (json_file, safetensors_header):
        monkeypatch.setattr(module, "MAX_JSON_BYTES", 1000)
    assert "not a safetensors file" in refusal(write(tmp_path, content), DamagedModel)


INVALID_ENTRIES: list[object] = [
    5,
    None,
    [],
    {},
    ENTRY | {"shape": None},
    ENTRY | {"shape": "4, 8"},
    ENTRY | {"shape": [4, -8]},
    ENTRY | {"shape": [4.0, 8]},
    ENTRY | {"shape": [True, 8]},
    ENTRY | {"shape": [1 << 63]},
    ENTRY | {"shape": [[4], 8]},
    ENTRY | {"data_offsets": None},
    ENTRY | {"data_offsets": []},
    ENTRY | {"data_offsets": [0]},
    ENTRY | {"data_offsets": [0, 32, 64]},
    ENTRY | {"data_offsets": [-64, 0]},
    ENTRY | {"data_offsets": ["0", "64"]},
    ENTRY | {"data_offsets": [0, 1 << 63]},
]


def test_an_entry_of_invalid_structure_is_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for entry in INVALID_ENTRIES:
        with subtests.test(entry=str(entry)):
            path = write(tmp_path, encode({"valid": ENTRY, "invalid": entry}, bytes(64)))
            assert "lacks a valid shape or offset" in refusal(path, DamagedModel)


def test_a_tensor_that_ends_before_it_begins_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, encode({"a": ENTRY | {"data_offsets": [64, 0]}}, bytes(64)))
    with pytest.raises(DamagedModel, match="ends before it begins"):
        read_safetensors_table(path)


def test_an_offset_beyond_the_end_of_the_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, encode({"a": ENTRY | {"data_offsets": [0, 1 << 40]}}, bytes(64)))
    assert "truncated: 1,099,511,627" in refusal(path, IncompleteModel)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02"], ids=["zip", "pickle"])
def test_only_the_magic_of_a_pytorch_file_is_checked(tmp_path: Path, name: str, start: bytes) -> None:
    assert read_weight_header(write(tmp_path, start + b"cos\nsystem\n", name)) == WeightHeader()


@pytest.mark.parametrize(
    ("content", "message", "kind"),
    [
        (b"", "an empty file", IncompleteModel),
        (b"<html>", "a web page", DamagedModel),
        (safetensors(1), "a safetensors file", DamagedModel),
        (b"\x80\x05", "not a PyTorch file", DamagedModel),
    ],
)
def test_another_file_in_place_of_a_pytorch_file_is_refused(
    tmp_path: Path, content: bytes, message: str, kind: type[ModelProblem]
) -> None:
    with pytest.raises(kind) as caught:
        read_weight_header(write(tmp_path, content, "pytorch_model.bin"))
    assert message in caught.value.say("en")


def test_the_suffix_is_recognized_in_any_case(tmp_path: Path) -> None:
    assert read_weight_header(write(tmp_path, safetensors(4, 8), "MODEL.SAFETENSORS")).sizes.elements == 32
