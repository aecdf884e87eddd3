"""Read the rows of a data file: JSON, JSON lines or CSV. A row that cannot be read is a bad row, not the end."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.core.errors import Words
from modules.core.quotes import in_quotes
from modules.training.dataset.errors import UnreadableDataset

MAX_BYTES = 100_000_000
"""Of a file of data, or of all texts in a folder."""
MAX_ROWS = 1_000_000
MAX_ROW_CHARACTERS = 1_000_000
"""Of one row. More is a damaged file: an unclosed quotation mark in CSV swallows all that follows."""

_PARQUET = (
    "python -c \"import pandas; pandas.read_parquet({name!r}).to_json({jsonl!r}, orient='records', lines=True, "
    'force_ascii=False)"'
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_ARCHIVES = (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz")


@dataclass(frozen=True)
class Row:
    """A row of a file: its number, counted from 1 (the line of JSON lines), and its fields, or else what is wrong."""

    number: int
    fields: Mapping[str, Any] | None = None
    problem: Words | None = None


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a data file. Raises UnreadableDataset if it has none, or is of another kind."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UnreadableDataset(path.name, other_kind(path))
    text = read_text(path)
    rows: list[Row] = []
    for row in reader(path.name, text):
        rows.append(row)
        if len(rows) > MAX_ROWS:
            raise UnreadableDataset(path.name, _words(f"it has more than {MAX_ROWS:,} rows", f"超过 {MAX_ROWS:,} 行"))
    if not rows:
        raise UnreadableDataset(path.name, _words("it has no rows", "没有任何数据行"))
    return rows


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark. Raises UnreadableDataset."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableDataset(path.name, _words(f"the disk reports “{reason}”", f"磁盘报告“{reason}”")) from None
    if len(content) > MAX_BYTES:
        megabytes = MAX_BYTES // 1_000_000
        raise UnreadableDataset(path.name, _words(f"it has more than {megabytes} MB", f"超过 {megabytes} MB"))
    if content.startswith(_UTF16):
        problem = _words("it is UTF-16 text; save it as UTF-8", "是 UTF-16 文本，请另存为 UTF-8")
        raise UnreadableDataset(path.name, problem)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        value, line = content[error.start], content.count(b"\n", 0, error.start) + 1
        en = f"byte {error.start:,} (0x{value:02X}, in line {line:,}) is not UTF-8; save the file as UTF-8"
        zh = f"第 {error.start:,} 字节（0x{value:02X}，第 {line:,} 行）不是 UTF-8，请将文件另存为 UTF-8"
        raise UnreadableDataset(path.name, _words(en, zh)) from None


def _words(en: str, zh: str) -> Words:
    return {"en": en, "zh": zh}


def other_kind(path: Path) -> Words:
    """Say at the end of a sentence what to do with a file that is no data by its name."""
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow", ".feather"):
        command = _PARQUET.format(name=path.name, jsonl=f"{path.stem}.jsonl")
        return _words(
            f"convert it first, with pandas and pyarrow: {command}", f"请先用 pandas 和 pyarrow 转换：{command}"
        )
    if suffix in _ARCHIVES:
        return _words("unpack the archive first", "请先解压")
    listed = ", ".join((*_READERS, ".txt"))
    return _words(f"its name ends with none of {listed}", f"扩展名不是 {listed} 之一")


def _json_rows(name: str, text: str) -> Iterator[Row]:
    """Yield the elements of a list. Several objects in a row are JSON lines under another name."""
    if not text.strip():
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip()[:1] == "{":
            yield from _json_lines(name, text)
            return
        en = f"the JSON is invalid at line {error.lineno:,}, column {error.colno:,}: {error.msg}"
        zh = f"JSON 在第 {error.lineno:,} 行第 {error.colno:,} 列处无效：{error.msg}"
        raise UnreadableDataset(name, _words(en, zh)) from None
    except RecursionError:
        raise UnreadableDataset(name, _words("its JSON is nested too deeply", "JSON 嵌套过深")) from None
    except ValueError:  # a number of thousands of digits
        raise UnreadableDataset(name, _words("its JSON has a number that is too long", "JSON 中有过长的数字")) from None
    if not isinstance(content, list):
        kind = "an object" if isinstance(content, dict) else "a single value"
        en = f"its JSON is {kind}; expected a list of rows: [{{…}}, {{…}}]"
        raise UnreadableDataset(name, _words(en, "JSON 应为数据行组成的列表：[{…}, {…}]"))
    for number, value in enumerate(content, 1):
        yield _row(number, value)


def _json_lines(name: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield _row(number, json.loads(line))
        except json.JSONDecodeError as error:
            en = f"invalid JSON at column {error.colno:,}: {error.msg}"
            yield Row(number, problem=_words(en, f"JSON 在第 {error.colno:,} 列处无效：{error.msg}"))
        except RecursionError:
            yield Row(number, problem=_words("nested too deeply", "嵌套过深"))
        except ValueError:
            yield Row(number, problem=_words("a number that is too long", "数字过长"))


def _row(number: int, value: object) -> Row:
    if not isinstance(value, dict):
        return Row(number, problem=_words("it is not an object with fields", "不是带字段的对象"))
    return Row(number, value)


def _csv_rows(name: str, text: str) -> Iterator[Row]:
    """Yield the records after the header, numbered from 1. The delimiter is the most frequent one in the header."""
    header_line = text.partition("\n")[0]
    delimiter = max(",;\t", key=header_line.count)
    csv.field_size_limit(MAX_BYTES)  # of all readers in this process
    yield from _records(name, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))


def _records(name: str, reader: Any) -> Iterator[Row]:
    number = 0
    header: list[str] | None = None
    try:
        for record in reader:
            if not any(field.strip() for field in record):
                continue
            if header is None:
                header = [field.strip() for field in record]
                _check_header(name, header)
                continue
            number += 1
            if len(record) == len(header):
                yield Row(number, dict(zip(header, record, strict=True)))
            else:
                en = f"{len(record)} fields instead of {len(header)} (near line {reader.line_num:,})"
                zh = f"有 {len(record)} 个字段，应为 {len(header)} 个（第 {reader.line_num:,} 行附近）"
                yield Row(number, problem=_words(en, zh))
    except csv.Error as error:
        en = f"the CSV is invalid near line {reader.line_num:,}: {error}"
        raise UnreadableDataset(name, _words(en, f"CSV 在第 {reader.line_num:,} 行附近无效：{error}")) from None


def _check_header(name: str, header: list[str]) -> None:
    repeated = sorted({field for field in header if header.count(field) > 1})
    if repeated:
        en, zh = f"two columns have the name {repeated[0]!r}", f"有两列同名：{in_quotes(repeated[0])}"
        raise UnreadableDataset(name, _words(en, zh))


_READERS: Mapping[str, Callable[[str, str], Iterator[Row]]] = {
    ".json": _json_rows,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
}
ROW_SUFFIXES = tuple(_READERS)
