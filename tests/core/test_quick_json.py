"""JSON by orjson is what Python's own JSON reads and writes, also where orjson refuses."""

from __future__ import annotations

import json
import math

import pytest

from modules.core import quick_json
from modules.core.quick_json import decode, encode

DEEP = json.loads("[" * 300 + "]" * 300)
VALUES = ({"a": [1, 2.5, None, True, '中文 \n"', {}]}, "\ud800", "😀", 2**70, {"big": -(2**70)}, [], DEEP)


@pytest.mark.parametrize("is_installed", [True, False])
def test_what_was_encoded_is_read_again_with_orjson_and_without(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_installed:
        monkeypatch.setattr(quick_json, "orjson", None)
    for value in VALUES:
        line = encode(value)
        assert json.loads(line) == decode(line) == value and b"\n" not in line


def test_lone_surrogates_are_escaped_or_replaced() -> None:
    assert encode({"text": "é\ud800"}) == b'{"text":"\\u00e9\\ud800"}'
    assert encode({"text": "é\ud800"}, replaces=True) == '{"text":"é?"}'.encode()


def test_numbers_beyond_those_of_other_programs_change() -> None:
    assert encode([math.nan, math.inf, -math.inf, 1.0]) == b"[null,null,null,1.0]"
    assert decode(encode(2**70 + 1)) == float(2**70)


def test_what_only_pythons_json_reads_is_read() -> None:
    assert decode(b'"\\ud800"') == "\ud800"
    assert decode(b"[-Infinity, 1]") == [-math.inf, 1]
    for broken in (b"", b"{", b'"\xff"', b"[1] 2"):
        with pytest.raises(ValueError):
            decode(broken)
