"""The files of characters: YAML or JSON with the keys of the original web UI, or a card in JSON.

A character that came from a card has the keys of the original, so that it can read the file, and the whole card as JSON
in the key `card`. Where both have a field, as after an edit by hand, the key of the original counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping

from modules.characters.card import card_with, check_types, dump_json, is_card, of_card, parse_card, parse_object
from modules.characters.character import Character
from modules.characters.errors import CardProblem
from modules.characters.lorebook import as_lines, read_lorebook
from modules.config.yaml_file import as_block
from modules.conversations.importers.values import as_line, as_list
from modules.core.events import Json
from modules.core.quotes import in_quotes

NAME_KEYS = ("name", "bot", "<|bot|>", "char_name")
USER_KEYS = ("your_name", "user", "<|user|>")
_GREETINGS = "alternate_greetings"
_OWN_TEXTS = {
    "examples": "example_dialogue",
    "system_prompt": "system_prompt",
    "post_history": "post_history_instructions",
}
"""Fields that the original does not have, and our keys for them in files without a card."""
_BOOK = "character_book"
_TEXT_KEYS = (*NAME_KEYS, *USER_KEYS, "context", "greeting", "char_greeting", "char_persona", "world_scenario")


def is_character(data: Mapping[str, Json]) -> bool:
    """Whether an object is a card, or has fields of the original's characters."""
    return is_card(data) or any(key in data for key in _TEXT_KEYS)


def read_character(id: str, data: Mapping[str, Json]) -> Character:
    """Return the character in the content of a file. Raises CardProblem."""
    if is_card(data):
        check_types(data)
        return of_card(id, data)
    for key in (*_TEXT_KEYS, *_OWN_TEXTS.values()):
        if isinstance(data.get(key), list | dict):
            raise CardProblem(f"its field {key!r} is not a text", f"字段{in_quotes(key)}不是文本")
    card = _kept_card(data.get("card"))
    start = of_card(id, card) if card is not None else _without_card(id, data)
    return dataclasses.replace(
        start,
        name=_first_text(data, NAME_KEYS) or start.name,
        context=_context(data) if _has_context(data) else start.context,
        greetings=_greetings(data, start),
        user_name=_first_text(data, USER_KEYS) or start.user_name,
    )


def _kept_card(value: Json) -> dict[str, Json] | None:
    """Return the card of a file; None if it has none."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise CardProblem("its field 'card' is not a text with JSON", "字段 'card' 不是 JSON 文本")
    return parse_card(value)


def _without_card(id: str, data: Mapping[str, Json]) -> Character:
    own = {field: _text(data.get(key)).strip() for field, key in _OWN_TEXTS.items()}
    book = data.get(_BOOK)
    if not isinstance(book, str | None):
        raise CardProblem(f"its field {_BOOK!r} is not a text with JSON", f"字段{in_quotes(_BOOK)}不是 JSON 文本")
    return Character(
        id,
        name=id,
        examples=own["examples"] if _is_own(data) else "",  # else it is part of the context
        system_prompt=own["system_prompt"],
        post_history=own["post_history"],
        lorebook=read_lorebook(parse_object(book)) if book is not None else None,
    )


def _is_own(data: Mapping[str, Json]) -> bool:
    """Whether the file has a context, rather than the fields of Pygmalion, of which one is made."""
    return "context" in data or "char_persona" not in data


def _has_context(data: Mapping[str, Json]) -> bool:
    return "context" in data or "char_persona" in data


def _context(data: Mapping[str, Json]) -> str:
    """Return the context as the original makes it."""
    if _is_own(data):
        return _text(data.get("context")).strip()
    parts = (
        (f"{_text(data.get('char_name'))}'s Persona: ", _text(data.get("char_persona"))),
        ("Scenario: ", _text(data.get("world_scenario"))),
        ("", _text(data.get("example_dialogue")).strip()),
    )
    return "\n".join(label + text for label, text in parts if text).strip()


def _greetings(data: Mapping[str, Json], start: Character) -> tuple[str, ...]:
    key = "greeting" if _is_own(data) else "char_greeting"
    alternates = (
        start.greetings[1:] if start.card else tuple(filter(str.strip, map(as_lines, as_list(data.get(_GREETINGS)))))
    )
    first = (_text(data[key]),) if key in data else start.greetings[:1]
    return (*filter(str.strip, first), *alternates)


def _first_text(data: Mapping[str, Json], keys: tuple[str, ...]) -> str:
    return next(filter(None, (as_line(_text(data.get(key))) for key in keys)), "")


def _text(value: Json) -> str:
    """Return a value as text: YAML reads a name such as 007 as a number."""
    return as_lines(str(value)) if value is not None else ""


# -- writing -----------------------------------------------------------------------------------------------------------


def write_yaml(content: MutableMapping[str, Json], character: Character) -> None:
    """Change the content of a YAML file, so that `read_character` returns `character`. Other keys stay."""
    write_fields(content, character, as_block)


def write_json(content: MutableMapping[str, Json], character: Character) -> None:
    """Change the content of a JSON file, which may be a card, so that `read_character` returns `character`."""
    if is_card(content):
        changed = card_with(content, character)
        content.clear()
        content.update(changed)
        if character.user_name or "your_name" in content:
            content["your_name"] = character.user_name
    else:
        write_fields(content, character, str)


def write_fields(content: MutableMapping[str, Json], character: Character, text: Json) -> None:
    """Write the fields of a character. `text` converts the texts."""
    content["name"] = text(character.name)
    for key in USER_KEYS:
        content.pop(key, None)
    if character.user_name:
        content["your_name"] = text(character.user_name)
    content["greeting"] = text("".join(character.greetings[:1]))
    content["context"] = text(character.context)
    own: dict[str, Json] = {key: getattr(character, field) for field, key in _OWN_TEXTS.items()}
    own |= {_GREETINGS: [text(one) for one in character.greetings[1:]], _BOOK: None}
    if character.lorebook is not None:
        own[_BOOK] = dump_json(character.lorebook.to_json(), indent=1)
    if character.card is not None:
        own = {**dict.fromkeys(own, None), "card": dump_json(card_with(character.card, character), indent=1)}
    for key, value in own.items():
        if value:
            content[key] = text(value) if isinstance(value, str) else value
        else:
            content.pop(key, None)
