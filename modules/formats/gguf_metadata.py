"""Key-value metadata of a GGUF file: reading it within limits, and typed access to its values.

Every count and length is compared with the size of the file before anything is read or allocated for it.

Source: the GGUF specification in ggml's docs.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass

from modules.formats.gguf_tensors import MAX_KEY_BYTES
from modules.system.bounded_reader import BoundedReader
from modules.system.format_errors import FormatError, damaged_header, quoted

BASE_MODEL = "general.base_model.0.name"
LORA_ALPHA = "adapter.lora.alpha"
ROPE_SCALING_TYPE = ".rope.scaling.type"
MIN_ENTRY_BYTES = 13

CHAT_TEMPLATE = "tokenizer.chat_template"
NAMED_TEMPLATE = f"{CHAT_TEMPLATE}."

_TOKENS = "tokenizer.ggml.tokens"
_SPECIAL_TOKENS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # spelled so in the format
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
"""GGUF's names of special tokens by transformers' names."""
_KEPT_STRINGS = {
    *("general.architecture", "general.name", "general.type", BASE_MODEL),
    *("adapter.type", CHAT_TEMPLATE),
}
LONG_STRING = 15
"""Bytes that a string of C++ holds itself; a longer one takes memory of its own."""
_MAX_STRING_BYTES = 1 << 24
_MAX_STRINGS = 1 << 24  # in an array of strings or arrays, whose items are read one by one; larger than any vocabulary
_MAX_KEPT_NUMBERS = 1024  # some models give one head count per layer; longer arrays of numbers are skipped
_MAX_DEPTH = 4
_MIN_ITEM_BYTES = 8  # of a string in an array

_FLOAT32, _STRING, _ARRAY = 6, 8, 9
_SCALAR_CODES = zip((*range(_STRING), 10, 11, 12), "BbHhIif?Qqd", strict=True)
_SCALARS = {number: struct.Struct("<" + code) for number, code in _SCALAR_CODES}


@dataclass(frozen=True)
class _SkippedArray:
    """An array that was not kept: the offset of its first item in the file.

    `long_bytes` are the bytes of its strings of more than LONG_STRING bytes.
    """

    type: int
    offset: int
    count: int
    long_bytes: int = 0


_Value = bool | int | float | str | tuple[int, ...] | _SkippedArray | None
"""A value of the metadata; None for a string that is not kept."""
Metadata = dict[str, _Value]


def read_metadata(reader: BoundedReader, entries: int) -> Metadata:
    """Read `entries` keys and values. Raises FormatError for invalid ones."""
    metadata: Metadata = {}
    for _ in range(entries):
        key = reader.read_string(MAX_KEY_BYTES)
        if key in metadata:
            raise damaged_header(f"the key {quoted(key)} occurs twice", f"键{quoted(key, 'zh')}出现了两次")
        metadata[key] = _read_value(reader, key, reader.read_u32())
    return metadata


def _read_value(reader: BoundedReader, key: str, type_number: int) -> _Value:
    if type_number in _SCALARS:
        if key == LORA_ALPHA and type_number != _FLOAT32:  # llama.cpp would abort the process
            raise damaged_header(f"{quoted(key)} is not of the type float32", f"{quoted(key, 'zh')}的类型不是 float32")
        return reader.read_number(_SCALARS[type_number])
    if type_number == _ARRAY:
        return _read_array(reader, key)
    if type_number != _STRING:
        raise damaged_header(
            f"{quoted(key)} has the unknown type {type_number}", f"{quoted(key, 'zh')}的类型 {type_number} 无法识别"
        )
    if key in _KEPT_STRINGS or key.endswith(ROPE_SCALING_TYPE) or key.startswith(NAMED_TEMPLATE):
        return reader.read_string(_MAX_STRING_BYTES)
    reader.skip_strings(1)
    return None


def _read_array(reader: BoundedReader, key: str, depth: int = 1) -> _Value:
    type_number, count = reader.read_u32(), reader.read_u64()
    array = _SkippedArray(type_number, reader.position, count)
    scalar = _SCALARS.get(type_number)
    if count * (scalar.size if scalar else _MIN_ITEM_BYTES) > reader.size or (not scalar and count > _MAX_STRINGS):
        raise damaged_header(f"{quoted(key)} claims {count:,} items", f"{quoted(key, 'zh')}声称有 {count:,} 项")
    if scalar:
        if count <= _MAX_KEPT_NUMBERS and scalar.format not in ("<f", "<d"):
            return tuple(int(reader.read_number(scalar)) for _ in range(count))
        reader.skip(count * scalar.size)
    elif type_number == _STRING:
        return dataclasses.replace(array, long_bytes=reader.skip_strings(count, LONG_STRING))
    else:
        _skip_nested_arrays(reader, key, array, depth)
    return array


def _skip_nested_arrays(reader: BoundedReader, key: str, array: _SkippedArray, depth: int) -> None:
    if array.type != _ARRAY:
        raise damaged_header(
            f"{quoted(key)} has items of the unknown type {array.type}",
            f"{quoted(key, 'zh')}中各项的类型 {array.type} 无法识别",
        )
    if depth >= _MAX_DEPTH:
        raise damaged_header(f"{quoted(key)} nests arrays too deeply", f"{quoted(key, 'zh')}的数组嵌套过深")
    for _ in range(array.count):
        _read_array(reader, key, depth + 1)


# -- typed access: a missing key gives the default, a value of another type raises FormatError -------------------------


def get_string(metadata: Metadata, key: str) -> str:
    value = metadata.get(key, "")
    if not isinstance(value, str):
        raise _wrong_type(key, value, "a string", "字符串")
    return value


def get_flag(metadata: Metadata, key: str) -> bool | None:
    if key not in metadata:
        return None
    value = metadata[key]
    if not isinstance(value, bool):
        raise _wrong_type(key, value, "true or false", " true 或 false")
    return value


def get_integer(metadata: Metadata, key: str, default: int = 0) -> int:
    """Return the integer at `key`, which may be as low as `default`; of one number per layer, the largest."""
    value = metadata.get(key, default)
    number = max(value, default=0) if isinstance(value, tuple) else value
    if isinstance(number, bool) or not isinstance(number, int) or not default <= number < 1 << 32:
        raise _wrong_type(key, value, "an integer", "整数")
    return number


def get_number(metadata: Metadata, key: str) -> float:
    value = metadata.get(key, 0.0)
    # `value >= 0` is also false for NaN; the upper bound excludes infinity.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e30:
        raise _wrong_type(key, value, "a number", "数字")
    return float(value)


def get_numbers(metadata: Metadata, prefix: str) -> dict[str, int | tuple[int, ...]]:
    """Return all integers, flags and lists of them, and the lengths of other lists; keys lose `prefix`."""
    values = {key: value.count if isinstance(value, _SkippedArray) else value for key, value in metadata.items()}
    return {key.removeprefix(prefix): value for key, value in values.items() if isinstance(value, (int, tuple))}


def get_long_strings(metadata: Metadata) -> dict[str, int]:
    """Return, of each list of strings, the bytes of those that are longer than LONG_STRING."""
    arrays = {key: value for key, value in metadata.items() if isinstance(value, _SkippedArray)}
    return {key: array.long_bytes for key, array in arrays.items() if array.type == _STRING}


def get_named_templates(metadata: Metadata) -> dict[str, str]:
    """Return the chat templates beside the one for plain conversations, by name, such as "tool_use"."""
    keys = [key for key in metadata if key.startswith(NAMED_TEMPLATE)]
    return {key.removeprefix(NAMED_TEMPLATE): get_string(metadata, key) for key in keys}


def read_special_tokens(reader: BoundedReader, metadata: Metadata) -> dict[str, str]:
    """Return the texts of the special tokens by transformers' names; those that the vocabulary lacks are left out."""
    tokens = metadata.get(_TOKENS)
    if not isinstance(tokens, _SkippedArray) or tokens.type != _STRING:
        return {}
    indices = {
        name: get_integer(metadata, f"tokenizer.ggml.{key}_token_id", -1) for name, key in _SPECIAL_TOKENS.items()
    }
    texts: dict[int, str] = {}
    position = 0
    reader.seek(tokens.offset)
    for index in sorted({index for index in indices.values() if 0 <= index < tokens.count}):
        reader.skip_strings(index - position)
        texts[index] = reader.read_string(_MAX_STRING_BYTES)
        position = index + 1
    return {name: texts[index] for name, index in indices.items() if index in texts}


def _wrong_type(key: str, value: _Value, en: str, zh: str) -> FormatError:
    if isinstance(value, (bool, int, float)):
        actual = (str(value), f" {value}")
    else:
        actual = ("a list", "列表") if isinstance(value, (tuple, _SkippedArray)) else ("a string", "字符串")
    return damaged_header(
        f"{quoted(key)} should be {en}, but is {actual[0]}", f"{quoted(key, 'zh')}应为{zh}，实为{actual[1]}"
    )
