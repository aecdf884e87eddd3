"""Written GGUF files can be read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.formats.gguf_header import read_tensors
from modules.formats.gguf_writer import PlannedTensor, write_gguf

TENSORS = (PlannedTensor("a", "F32", (3, 2)), PlannedTensor("猫.weight", "F16", (5,)))


def test_a_written_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    metadata = {"general.type": "adapter", "general.name": "猫", "adapter.lora.alpha": 0.5, "own.number": (1 << 64) - 1}
    with path.open("wb") as file:
        write_gguf(file, metadata, TENSORS, [bytes(range(24)), b"0123456789"])
    header, table = read_tensors(path)
    assert (header.kind, header.name, header.alpha, header.numbers) == (
        "adapter",
        "猫",
        0.5,
        {"own.number": (1 << 64) - 1},
    )
    assert [(tensor.name, tensor.type, tensor.shape, tensor.size) for tensor in table] == [
        ("a", "F32", (3, 2), 24),
        ("猫.weight", "F16", (5,), 10),
    ]
    content = path.read_bytes()
    data = len(content) - 64  # Each tensor is padded to 32 bytes.
    assert data % 32 == 0 and content[data : data + 24] == bytes(range(24))
    assert content[data + table[1].offset :].rstrip(b"\0") == b"0123456789"


def test_a_tensor_whose_size_differs_from_the_plan_raises_an_error(tmp_path: Path) -> None:
    with (tmp_path / "x.gguf").open("wb") as file, pytest.raises(ValueError, match="a has 23 bytes instead of 24"):
        write_gguf(file, {}, TENSORS, [bytes(23), bytes(10)])
