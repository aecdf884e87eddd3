"""The texts of the page."""

from __future__ import annotations

import pytest

from modules.ui import locales


def test_every_sentence_exists_in_both_languages_with_the_same_blanks() -> None:
    assert locales.both_complete()


def test_a_key_without_words_is_an_error() -> None:
    with pytest.raises(KeyError):
        locales.translator("zh")("no such key")
