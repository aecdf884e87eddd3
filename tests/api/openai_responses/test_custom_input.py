"""The text of a custom tool, decoded while its JSON is being written."""

from __future__ import annotations

import json
import random

import pytest

from modules.api.openai_responses.custom_input import CustomInput

PATCH = '*** Begin Patch\n*** Add File: "a\\b.txt"\n+\tdéjà 你好 😀 \x00 </tool>\n*** End Patch\n'


def test_the_text_does_not_depend_on_how_its_json_is_cut() -> None:
    rng = random.Random(5)
    for ascii_only in (True, False):
        arguments = json.dumps({"input": PATCH}, ensure_ascii=ascii_only)
        for _ in range(200):
            decoder, cut = CustomInput(), sorted(rng.choices(range(len(arguments)), k=rng.randrange(12)))
            fragments = [arguments[a:b] for a, b in zip([0, *cut], [*cut, len(arguments)], strict=True)]
            deltas = [decoder.feed(fragment) for fragment in fragments]
            assert ("".join(deltas), decoder.end(), decoder.text) == (PATCH, "", PATCH)


def test_the_text_arrives_while_it_is_written() -> None:
    decoder = CustomInput()
    assert [decoder.feed(text) for text in ('{"inp', 'ut": "one', " two\\", 'n"', "}")] == ["", "one", " two", "\n", ""]


def test_another_form_is_read_at_the_end(subtests: pytest.Subtests) -> None:
    cases = {
        '{"patch": "x"}': "x",
        '{"patch": "x", "why": "y"}': '{"patch": "x", "why": "y"}',
        '{"lines": 5}': '{"lines": 5}',
        "{}": "",
        '{"patch": "cut off': '{"patch": "cut off',
        '"x"': "x",
    }
    for arguments, text in cases.items():
        with subtests.test(arguments):
            decoder = CustomInput()
            assert (decoder.feed(arguments), decoder.end()) == ("", text)


def test_invalid_escapes_stay_as_they_are() -> None:
    decoder = CustomInput()
    assert decoder.feed('{"input": "C:\\q"}') == "C:\\q"
