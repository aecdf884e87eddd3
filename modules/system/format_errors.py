"""Errors in the content of model files, and how they quote untrusted text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from modules.core.errors import DamagedModel, IncompleteModel, ModelProblem, UnsupportedModel, Words
from modules.core.quotes import in_quotes

_QUOTED_CHARACTERS = 60


class FormatError(Exception):
    """Invalid content of a file whose name is not known yet; `kind` is the ModelProblem it becomes."""

    def __init__(self, en: str, zh: str, kind: type[ModelProblem] = DamagedModel) -> None:
        super().__init__(en)
        self.words: Words = {"en": en, "zh": zh}
        self.kind = kind


@contextlib.contextmanager
def as_model_problem(name: str) -> Iterator[None]:
    """Turn a FormatError raised in the block into the ModelProblem of the file called `name`."""
    try:
        yield
    except FormatError as error:
        raise error.kind(printable(name), error.words) from None


def header_cut_short(size: int) -> FormatError:
    return FormatError(
        f"the file ends within its header, after {size:,} bytes. Download it again.",
        f"文件只有 {size:,} 字节，连文件头都不完整。请重新下载。",
        IncompleteModel,
    )


def damaged_header(en: str, zh: str) -> FormatError:
    return FormatError(
        f"the header is damaged or incomplete: {en}. Download the file again.",
        f"文件头损坏或不完整：{zh}。请重新下载。",
    )


def invalid_json(line: int, column: int) -> FormatError:
    return FormatError(
        f"the JSON is invalid or breaks off at line {line}, column {column}. Download the file again.",
        f"JSON 无效，或在第 {line} 行第 {column} 列处中断。请重新下载。",
    )


def truncated_file(expected: int, present: int) -> FormatError:
    return FormatError(
        f"the file is truncated: {expected:,} bytes expected, {present:,} present. Download it again.",
        f"文件被截断：应有 {expected:,} 字节，实际只有 {present:,} 字节。请重新下载。",
        IncompleteModel,
    )


def wrong_format(expected: str, head: bytes, size: int) -> FormatError:
    """Return the error for a file of `size` bytes that should be of the format `expected`, but begins with `head`.

    About 100 bytes of `head` suffice to tell what the file is instead.
    """
    if looks := _recognize(head, size):
        en, zh, kind = looks
        return FormatError(f"this is not a {expected} file but {en}.", f"这不是 {expected} 文件，而是{zh}。", kind)
    return FormatError(
        f"this is not a {expected} file: it begins with {head[:8]!r}.",
        f"这不是 {expected} 文件：开头是 {head[:8]!r}。",
    )


_Recognized = tuple[str, str, type[ModelProblem]]
"""What a file is: the end of a sentence in English and in Chinese, and the kind of problem."""


def _recognize(head: bytes, size: int) -> _Recognized | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not size:
        return "an empty file; download it again", "空文件，请重新下载", IncompleteModel
    if not head.strip(b"\0"):
        return "zeros, as an unfinished download leaves them", "一段全零数据，多半是下载未完成", IncompleteModel
    if text.startswith(b"version https://git-lfs"):
        en, zh = "a git-lfs pointer: the model itself was not downloaded", " git-lfs 指针，模型本身并未下载"
        return en, zh, IncompleteModel
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<!--")):
        return "a web page saved by a failed download", "下载失败时存下的网页", DamagedModel
    if head[4:8] != b"\0" * 4 and text.startswith(b"{"):
        en, zh = "JSON text, perhaps a server's error message", " JSON 文本，可能是服务器返回的错误信息"
        return en, zh, DamagedModel
    return _recognize_model_format(head, size)


def _recognize_model_format(head: bytes, size: int) -> _Recognized | None:
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


def printable(name: str) -> str:
    """Return a file name that can be shown: bytes that are not UTF-8 (lone surrogates) become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")


def quoted(text: str, language: str = "en", max_characters: int = _QUOTED_CHARACTERS) -> str:
    """Quote a text from a file in a sentence: shortened, with its control characters escaped."""
    return in_quotes(text if len(text) <= max_characters else text[:max_characters] + "…", language)
