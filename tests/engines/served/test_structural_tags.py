"""Forms of answers as structural tags of xgrammar.

xgrammar 0.2.8, with which vLLM 0.32 comes, has compiled these tags, and matched the answers that they are for.
"""

from __future__ import annotations

import pytest

from modules.core.events import Json
from modules.engines.served.structural_tags import structural_tag

CALL = ["all", ["text", "<tool_call>"], ["json", {"type": "object", "x-lenient": True}], ["text", "</tool_call>"]]
CALL_TAG: Json = {
    "type": "sequence",
    "elements": [
        {"type": "const_string", "value": "<tool_call>"},
        {"type": "json_schema", "json_schema": {"type": "object"}},
        {"type": "const_string", "value": "</tool_call>"},
    ],
}
SPACE: Json = {"type": "regex", "pattern": r"[ \n\r\t]{0,20}"}
UNTIL: Json = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": "</think>"}


def test_calls_after_a_thought_are_a_sequence() -> None:
    thought = ["maybe", ["all", ["text", "<think>"], ["until", "</think>"], ["space"]]]
    begun = {"type": "const_string", "value": "<think>"}
    assert structural_tag(["all", thought, ["many", CALL]]) == {
        "type": "structural_tag",
        "format": {
            "type": "sequence",
            "elements": [
                {"type": "optional", "content": {"type": "sequence", "elements": [begun, UNTIL, SPACE]}},
                {"type": "plus", "content": CALL_TAG},
            ],
        },
    }


def test_any_text_does_not_contain_what_begins_a_call() -> None:
    calls = ["all", ["until", "</think>"], CALL]
    tag = structural_tag(["any", ["rest"], calls])["format"]
    assert tag["type"] == "or" and tag["elements"][0] == {"type": "any_text", "excludes": ["</think>"]}
    assert structural_tag(["rest"])["format"] == {"type": "any_text", "excludes": []}


def test_what_is_no_node_is_refused() -> None:
    with pytest.raises(ValueError, match="no node"):
        structural_tag(["nonsense"])
