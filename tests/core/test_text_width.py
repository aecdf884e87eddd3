"""Characters of Chinese, Japanese and Korean take two columns."""

from __future__ import annotations

from modules.core.text_width import columns, is_wide


def test_wide_characters_take_two_columns() -> None:
    assert [is_wide(character) for character in "aé中，あ한（"] == [False, False, *[True] * 5]
    assert (columns("tokens"), columns("é"), columns("词符 (2)")) == (6, 1, 8)
