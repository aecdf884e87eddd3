"""Texts of a model's special tokens, by the files of its tokenizer: templates refer to them before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from modules.core.events import Json

_FILES = ("special_tokens_map.json", "tokenizer_config.json")
"""Later ones take precedence, as in transformers."""
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_MAX_BYTES = 20_000_000


def special_tokens(folder: Path) -> dict[str, Json]:
    """Return the special tokens of the model in `folder` by name, as far as its files name them.

    A file that cannot be read counts as empty; loading the model will report it.
    """
    tokens: dict[str, Json] = {}
    for name in _FILES:
        content = _read(folder / name)
        for key in _NAMES:
            value = content.get(key)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str) and text:
                tokens[key] = text
    return tokens


def _read(path: Path) -> dict[str, Json]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
