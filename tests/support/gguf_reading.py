"""Read the header of a GGUF file given as bytes, or the error that it causes."""

from __future__ import annotations

import io

import pytest

from modules.core.errors import ModelProblem
from modules.formats.gguf_header import GgufHeader, read_open_header


def header_of(content: bytes) -> GgufHeader:
    return read_open_header(io.BytesIO(content), len(content), "model.gguf")


def read_error(content: bytes) -> str:
    """Return the English error message, after checking that the Chinese one contains Chinese."""
    with pytest.raises(ModelProblem) as caught:
        header_of(content)
    assert caught.value.file == "model.gguf"
    assert any("一" <= letter <= "鿿" for letter in caught.value.say("zh"))
    return caught.value.say("en")
