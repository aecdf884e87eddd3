"""The texts of the page."""

from __future__ import annotations

import pytest

from modules.ui import locales


def test_every_text_exists_in_both_languages_with_the_same_placeholders() -> None:
    assert locales.both_complete()


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(KeyError):
        locales.translator("zh")("no such key")
