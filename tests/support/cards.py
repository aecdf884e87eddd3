"""Character cards as their makers write them."""

from __future__ import annotations

import base64
import json
from typing import Any

from modules.characters import png

V1: dict[str, Any] = {
    "name": "Ada",
    "description": "Ada is a mathematician.",
    "personality": "patient",
    "scenario": "London, 1843.",
    "first_mes": "Good morning, {{user}}.",
    "mes_example": "<START>\n{{user}}: Hi\n{{char}}: Hello",
    "create_date": "2023-04-01",
    "chat": "Ada - 2023",
    "number": 1.0,
}
V2: dict[str, Any] = {
    "spec": "chara_card_v2",
    "spec_version": "2.0",
    "data": {
        **{key: V1[key] for key in ("name", "description", "personality", "scenario", "first_mes", "mes_example")},
        "creator_notes": "Runs best at night.\r\n— the author",
        "system_prompt": "{{original}}\nWrite as {{char}}.",
        "post_history_instructions": "Stay in 1843.",
        "alternate_greetings": ["Good evening.", "You are late."],
        "character_book": {
            "name": "London",
            "scan_depth": 2,
            "extensions": {"who": "knows"},
            "entries": [
                {
                    "keys": ["engine"],
                    "content": "The Analytical Engine has gears of brass.",
                    "extensions": {"depth": 4},
                    "enabled": True,
                    "insertion_order": 100,
                    "id": 3,
                }
            ],
        },
        "tags": ["history"],
        "creator": "someone",
        "character_version": "1.2",
        "extensions": {"depth_prompt": {"prompt": "x", "depth": 4}, "emoji": "🎲", "odd": "\u2028\x7f\x01"},
    },
}
V3: dict[str, Any] = {
    "spec": "chara_card_v3",
    "spec_version": "3.0",
    "data": {
        **V2["data"],
        "nickname": "Countess",
        "assets": [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}],
        "group_only_greetings": [],
        "creator_notes_multilingual": {"zh": "夜间效果最好。"},
        "source": [],
        "creation_date": 1700000000,
    },
    "unknown": [None, True, 1e300, {"deep": {"er": 12345678901234567890}}],
}
CARDS = {"V1": V1, "V2": V2, "V3": V3}


def text_chunk(keyword: str, card: dict[str, Any]) -> png.Chunk:
    return (b"tEXt", keyword.encode() + b"\0" + base64.b64encode(json.dumps(card).encode()))


def png_file(*texts: png.Chunk) -> bytes:
    """Return a picture with these text chunks."""
    *first, end = png.chunks(png.blank_picture(2, 3))
    return png.joined([*first, *texts, end])
