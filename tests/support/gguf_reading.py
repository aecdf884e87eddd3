"""Read the header of a GGUF file given as bytes, or the error that it causes."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.errors import ModelProblem
from modules.formats.gguf_header import GgufHeader, read_header


def header_of(tmp_path: Path, content: bytes) -> GgufHeader:
    path = tmp_path / "model.gguf"
    path.touch()
    # Unlike write_bytes this never truncates to 0 bytes, after which ext4 would flush the file for some milliseconds.
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    return read_header(path)


def read_error(tmp_path: Path, content: bytes) -> str:
    """Return the English error message, after checking that the Chinese one contains Chinese."""
    with pytest.raises(ModelProblem) as caught:
        header_of(tmp_path, content)
    assert caught.value.file == "model.gguf"
    assert any("一" <= letter <= "鿿" for letter in caught.value.say("zh"))
    return caught.value.say("en")
