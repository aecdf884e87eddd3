"""The bounds-checked reader never reads or allocates beyond the end of a file."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import pytest

from modules.core.errors import DamagedModel, IncompleteModel
from modules.system import bounded_reader
from modules.system.bounded_reader import BoundedReader, parse_file, parse_open_file
from modules.system.format_errors import FormatError, damaged_header

CUT_SHORT = "ends within its header"
UNSIGNED_16 = struct.Struct("<H")


def reader_of(content: bytes, size: int | None = None) -> BoundedReader:
    """Return a reader of `content`, which claims to have `size` bytes."""
    return BoundedReader(io.BytesIO(content), len(content) if size is None else size)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


@pytest.fixture(params=[8, 16, 1 << 20], ids=["8 bytes", "16 bytes", "1 MiB"])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The size of the reader's window, often smaller than the values read."""
    monkeypatch.setattr(bounded_reader, "_WINDOW_BYTES", request.param)
    size: int = request.param
    return size


@pytest.mark.usefixtures("window")
def test_values_are_read_in_order() -> None:
    reader = reader_of(struct.pack("<IQ", 7, 1 << 63) + string("猫 and dog") + struct.pack("<H", 9) + b"rest")
    assert (reader.read_u32(), reader.read_u64()) == (7, 1 << 63)
    assert (reader.read_string(100), reader.read_number(UNSIGNED_16)) == ("猫 and dog", 9)
    assert reader.position == reader.size - 4 and reader.read(4) == b"rest"
    assert reader.position == reader.size and reader.read(0) == b""


@pytest.mark.usefixtures("window")
def test_peek_does_not_move() -> None:
    content = bytes(range(256)) * 3
    reader = reader_of(content)
    reader.skip(5)
    assert reader.peek() == content[5:517] and reader.position == 5
    assert reader.read(3) == content[5:8]
    reader.skip(750)
    assert reader.peek() == content[758:] and reader.peek() == content[758:]
    reader.skip(10)
    assert reader.peek() == b""


@pytest.mark.usefixtures("window")
def test_strings_are_skipped_across_windows() -> None:
    texts = ["", "a", "x" * 7, "x" * 8, "x" * 40, "猫"] * 3
    reader = reader_of(b"".join(map(string, texts)) + b"end")
    assert reader.skip_strings(len(texts) - 1, 7) == 3 * 48
    assert reader.read_string(10) == "猫" and reader.read(3) == b"end"
    reader.skip_strings(0)
    assert reader.position == reader.size


@pytest.mark.usefixtures("window")
def test_seek_moves_back_and_forth() -> None:
    content = bytes(range(200))
    reader = reader_of(content)
    for offset in (150, 0, 199, 3):
        reader.seek(offset)
        assert reader.position == offset and reader.read(1) == content[offset : offset + 1]


@pytest.mark.usefixtures("window")
def test_every_method_refuses_to_read_past_the_end() -> None:
    content = string("four")[:-1]
    for read in (
        lambda reader: reader.read(12),
        lambda reader: reader.skip(12),
        lambda reader: reader.read_string(100),
        lambda reader: reader.skip_strings(1),
        lambda reader: (reader.skip(8), reader.read_u32()),
        lambda reader: (reader.skip(8), reader.read_u64()),
        lambda reader: (reader.skip(10), reader.read_number(UNSIGNED_16)),
        lambda reader: (reader.seek(12), reader.read(1)),
    ):
        with pytest.raises(FormatError, match=f"{CUT_SHORT}, after 11 bytes") as caught:
            read(reader_of(content))
        assert caught.value.kind is IncompleteModel


def test_a_false_length_is_refused_without_allocating_memory() -> None:
    huge = struct.pack("<Q", 1 << 40)
    tracemalloc.start()
    for size in (8, 1 << 50):
        with pytest.raises(FormatError, match="a string claims 1,099,511,627,776 bytes"):
            reader_of(huge, size).read_string(1 << 20)
    with pytest.raises(FormatError, match=CUT_SHORT):
        reader_of(huge).skip_strings(1)
    with pytest.raises(FormatError, match=CUT_SHORT):
        reader_of(huge).read(1 << 40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("length", [1 << 30, 1 << 62, (1 << 64) - 1])
def test_a_false_length_among_skipped_strings_is_refused(length: int) -> None:
    content = string("a") + struct.pack("<Q", length) + string("b")
    with pytest.raises(FormatError, match=CUT_SHORT):
        reader_of(content).skip_strings(3)


def test_a_string_has_a_maximum_length() -> None:
    assert reader_of(string("12345")).read_string(5) == "12345"
    with pytest.raises(FormatError, match="a string claims 5 bytes") as caught:
        reader_of(string("12345")).read_string(4)
    assert caught.value.kind is DamagedModel


def test_a_string_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(FormatError, match="is not valid UTF-8") as caught:
        reader_of(string(b"\xff" * 1000)).read_string(1000)
    assert len(str(caught.value)) < 200


def test_a_file_that_shrinks_while_it_is_read_is_cut_short() -> None:
    with pytest.raises(FormatError, match=f"{CUT_SHORT}, after 3 bytes"):
        reader_of(b"abc", size=100).read(4)


def test_parse_file_names_the_file_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(struct.pack("<I", 5))
    assert parse_file(path, BoundedReader.read_u32) == 5
    with pytest.raises(IncompleteModel) as incomplete:
        parse_file(path, BoundedReader.read_u64)
    assert incomplete.value.file == "model.gguf" and CUT_SHORT in incomplete.value.say("en")

    def refuse(reader: BoundedReader) -> None:
        raise damaged_header("it is wrong", "有误")

    with pytest.raises(DamagedModel) as damaged:
        parse_open_file(io.BytesIO(b""), 0, "remote.gguf", refuse)
    assert damaged.value.file == "remote.gguf" and "有误" in damaged.value.say("zh")


def test_parse_file_raises_oserror_for_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parse_file(tmp_path / "missing", BoundedReader.peek)
