"""Files nobody vouches for: read through a window that never asks for more than is there, or known by their looks.

The window slides; it is no mmap: a file that shrinks while it is mapped (a download that starts over) kills the whole
program with SIGBUS.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from modules.core.errors import DamagedModel, IncompleteModel, ModelProblem, UnsupportedModel, Words

_SIZE = 1 << 20
_QUOTED = 60
_LENGTH = struct.Struct("<Q")

T = TypeVar("T")


class Readable(Protocol):
    """What is asked of a file."""

    def seek(self, place: int, /) -> object: ...

    def read(self, count: int, /) -> bytes: ...


def examine(path: Path, read: Callable[[Window], T]) -> T:
    """What `read` makes of the file at `path`. A ModelProblem with its name for a Flaw; OSError if unreadable."""
    with path.open("rb") as file:
        return examine_open(file, os.fstat(file.fileno()).st_size, path.name, read)


def examine_open(file: Readable, size: int, name: str, read: Callable[[Window], T]) -> T:
    """The same of a file of `size` bytes, wherever they come from."""
    with named(name):
        return read(Window(file, size))


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """A Flaw found in here becomes the ModelProblem of the file called `name`."""
    try:
        yield
    except Flaw as flaw:
        raise flaw.kind(readable(name), flaw.words) from None


class Flaw(Exception):
    """What is wrong with a file's bytes, and which kind of problem that is; `examine` adds its name."""

    def __init__(self, en: str, zh: str, kind: type[ModelProblem] = DamagedModel) -> None:
        super().__init__(en)
        self.words: Words = {"en": en, "zh": zh}
        self.kind = kind


def _cut_short(size: int) -> Flaw:
    return Flaw(
        f"the file ends within its header, after {size:,} bytes. Download it again.",
        f"文件在 {size:,} 字节处结束，连文件头都不完整。请重新下载。",
        IncompleteModel,
    )


def damage(en: str, zh: str) -> Flaw:
    return Flaw(
        f"the header is damaged or incomplete: {en}. Download the file again.",
        f"文件头损坏或不完整：{zh}。请重新下载。",
    )


def foreign(wanted: str, head: bytes, size: int) -> Flaw:
    """For a file of `size` bytes that should be of the format `wanted` but begins with `head` (some 100 bytes)."""
    if found := _appearance(head, size):
        en, zh, kind = found
        return Flaw(f"this is not a {wanted} file but {en}.", f"这不是 {wanted} 文件，而是{zh}。", kind)
    return Flaw(
        f"this is not a {wanted} file: it begins with {head[:8]!r}.",
        f"这不是 {wanted} 文件：它以 {head[:8]!r} 开头。",
    )


def broken_json(line: int, column: int) -> Flaw:
    return Flaw(
        f"its JSON is wrong or breaks off at line {line}, column {column}. Download the file again.",
        f"其 JSON 在第 {line} 行第 {column} 列有误或中断。请重新下载。",
    )


def truncated(expected: int, present: int) -> Flaw:
    return Flaw(
        f"the file is truncated: {expected:,} bytes expected, {present:,} present. Download it again.",
        f"文件被截断：应有 {expected:,} 字节，实际只有 {present:,} 字节。请重新下载。",
        IncompleteModel,
    )


class Window:
    """A little-endian file of `size` bytes, seen through a window that slides. Flaw for what lies beyond its end."""

    def __init__(self, file: Readable, size: int) -> None:
        self.size = size
        self._file = file
        self._data = b""
        self._start = 0  # where the window begins in the file
        self._at = 0  # the reader's place in the window; beyond its end after a long skip

    @property
    def place(self) -> int:
        return self._start + self._at

    def seek(self, place: int) -> None:
        self._data, self._start, self._at = b"", place, 0

    def peek(self) -> bytes:
        """Up to 512 bytes from here on."""
        head = self.take(min(512, self.size - self.place))
        self._at -= len(head)
        return head

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            self._slide(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def number(self, shape: struct.Struct) -> bool | int | float:
        number: bool | int | float = shape.unpack(self.take(shape.size))[0]
        return number

    def text(self, longest: int) -> str:
        """A text of at most `longest` bytes, after its length (u64)."""
        length = self.u64()
        if length > min(self.size, longest):
            raise damage(f"it announces a text of {length:,} bytes", f"它声称某段文本有 {length:,} 字节")
        raw = self.take(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise damage(f"{raw[:20]!r} should be text in UTF-8", f"{raw[:20]!r} 应为 UTF-8 文本") from None

    def skip(self, count: int) -> None:
        if count > self.size - self.place:
            raise _cut_short(self.size)
        self._at += count

    def skip_strings(self, count: int) -> None:
        """Past `count` texts, each after its length (u64). A vocabulary costs this loop, so all is kept at hand."""
        unpack, wide, data, at = _LENGTH.unpack_from, _LENGTH.size, self._data, self._at
        last = len(data) - wide
        for _ in range(count):
            if at > last:
                self._at = at
                self._slide(wide)
                data, at, last = self._data, 0, len(self._data) - wide
            (length,) = unpack(data, at)
            at += wide + length
        self._at = at
        self.skip(0)  # the last length may have lied

    def _slide(self, count: int) -> None:
        place = self.place
        if count > self.size - place:
            raise _cut_short(self.size)
        self._file.seek(place)
        self._data, self._start, self._at = self._file.read(max(count, _SIZE)), place, 0
        if len(self._data) < count:  # the file has shrunk under our hands
            raise _cut_short(place + len(self._data))


_Looks = tuple[str, str, type[ModelProblem]]
"""What a file looks like: the end of a sentence in English and in Chinese, and the kind of problem it is."""


def _appearance(head: bytes, size: int) -> _Looks | None:
    """None if it is like nothing known."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not size:
        return "an empty file; download it again", "空文件，请重新下载", IncompleteModel
    if not head.strip(b"\0"):
        en, zh = "a stretch of zeros, as an unfinished download leaves", "一段全零数据，多半是下载尚未完成"
        return en, zh, IncompleteModel
    if text.startswith(b"version https://git-lfs"):
        en, zh = "a git-lfs pointer: the model itself was never downloaded", " git-lfs 指针，模型本身并未下载"
        return en, zh, IncompleteModel
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<!--")):
        return "a web page that a failed download has saved", "下载失败时存下的网页", DamagedModel
    if head[4:8] != b"\0" * 4 and text.startswith(b"{"):
        en, zh = "JSON text, perhaps a server's error message", " JSON 文本，可能是服务器返回的错误信息"
        return en, zh, DamagedModel
    return _other_format(head, size)


def _other_format(head: bytes, size: int) -> _Looks | None:
    if head[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):  # ggml, ggmf, ggjt, ggla, as little-endian writes them
        return (
            "a file in the old GGML format, which is no longer supported; get this model as GGUF",
            "旧的 GGML 格式文件，该格式已不再受支持，请改用此模型的 GGUF 版本",
            UnsupportedModel,
        )
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "a PyTorch checkpoint or another zip archive", " PyTorch 检查点或其他 zip 压缩包", DamagedModel
    if head[:4] == b"GGUF":
        return "a GGUF file; its name should end in .gguf", " GGUF 文件，文件名应以 .gguf 结尾", DamagedModel
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return "a safetensors file", " safetensors 文件", DamagedModel
    return None


def readable(name: str) -> str:
    """A file name as it can be shown: bytes that are no UTF-8 (Python's lone surrogates) become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def brief(text: str, longest: int = _QUOTED) -> str:
    """A text out of a file, quoted for a sentence: its length and its control characters are the file's whim."""
    return repr(text if len(text) <= longest else text[:longest] + "…")
