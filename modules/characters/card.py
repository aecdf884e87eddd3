"""Character cards V1, V2 and V3: their fields as a character, and a character's changes written back into its card.

V1 is flat; V2 and V3 keep the fields in `data`. Any field may be missing. Whatever is not changed stays as it is in the
card, and so do keys that this program does not know.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

from modules.characters.character import Character
from modules.characters.errors import CardProblem
from modules.characters.lorebook import Lorebook, as_lines, read_lorebook
from modules.conversations.importers.values import as_line, as_text, is_shallow
from modules.core.errors import Words
from modules.core.events import Json
from modules.core.quotes import in_quotes

MAX_JSON_BYTES = 2_000_000
MAX_DEPTH = 40
SPECS = {"chara_card_v2": "2.0", "chara_card_v3": "3.0"}
"""The formats with a version, and the newest version of each that is known."""

_V1_KEYS = ("description", "personality", "scenario", "first_mes", "mes_example")
_TEXT_KEYS = (*_V1_KEYS, "name", "nickname", "system_prompt", "post_history_instructions", "creator_notes")
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_PERSONALITY = "{{char}}'s personality: "
_SCENARIO = "Scenario: "


def parse_card(text: str | bytes) -> dict[str, Json]:
    """Return the card in a JSON text. Raises CardProblem."""
    data = parse_object(text)
    if not is_card(data):
        raise CardProblem(
            "it has none of the fields of a character card, such as first_mes or description",
            "其中没有角色卡的字段，例如 first_mes 或 description",
        )
    check_types(data)
    return data


def parse_object(text: str | bytes) -> dict[str, Json]:
    """Return a JSON object. Raises CardProblem for what is none, or too large or deeply nested."""
    if len(text) > MAX_JSON_BYTES:
        raise CardProblem(
            f"it has more than {MAX_JSON_BYTES // 1_000_000} MB of text", f"文本超过 {MAX_JSON_BYTES // 1_000_000} MB"
        )
    try:
        data = json.loads(text, parse_constant=lambda _: None)
    except UnicodeDecodeError as error:
        raise CardProblem("its text is not UTF-8", "文本不是 UTF-8 编码") from error
    except json.JSONDecodeError as error:
        raise CardProblem(
            f"it is not JSON (line {error.lineno}, column {error.colno}: {error.msg})",
            f"内容不是 JSON（第 {error.lineno} 行第 {error.colno} 列：{error.msg}）",
        ) from error
    except (ValueError, RecursionError) as error:
        raise CardProblem("it is not JSON", "内容不是 JSON") from error
    if not isinstance(data, dict):
        raise CardProblem("it is not a JSON object", "内容不是 JSON 对象")
    if not is_shallow(data):
        raise CardProblem(
            f"its values are nested more than {MAX_DEPTH} levels deep", f"其中的值嵌套超过 {MAX_DEPTH} 层"
        )
    return data


def dump_json(value: Json, indent: int | None = None) -> str:
    """Return JSON without characters that are invalid in UTF-8 or YAML: they are written as escapes."""
    return _UNPRINTABLE.sub(
        lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False, indent=indent)
    )


def is_card(data: Mapping[str, Json]) -> bool:
    """Whether a JSON object is a character card rather than a character of the original."""
    return (
        isinstance(data.get("data"), dict)
        or str(data.get("spec")).startswith("chara_card")
        or ("context" not in data and any(key in data for key in _V1_KEYS))
    )


def check_types(card: Mapping[str, Json]) -> None:
    """Raise CardProblem for a field with a value of the wrong type. Fields may be missing or null."""
    body = body_of(card)
    for key in _TEXT_KEYS:
        if not isinstance(body.get(key), str | None):
            raise CardProblem(f"its field {key!r} is not a text", f"字段{in_quotes(key)}不是文本")
    greetings = body.get("alternate_greetings")
    if greetings is not None and not (isinstance(greetings, list) and all(isinstance(one, str) for one in greetings)):
        raise CardProblem(
            "its field 'alternate_greetings' is not a list of texts", "字段 'alternate_greetings' 不是文本列表"
        )
    if body.get("character_book") is not None:
        read_lorebook(body["character_book"])
    if not any(as_text(body.get(key)).strip() for key in _TEXT_KEYS):
        raise CardProblem("all its fields are empty", "其所有字段均为空")


def body_of(card: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return the object that has the fields: `data`, or in V1 the card itself."""
    body = card.get("data")
    return body if isinstance(body, dict) else card


def warnings_of(card: Mapping[str, Json]) -> list[Words]:
    """Return what a user should know of a card that is read nevertheless, as sentences."""
    spec, version = card.get("spec"), card.get("spec_version")
    if spec is None and version is None:
        return []
    newest = SPECS.get(str(spec))
    if newest is None or _number(version) > _number(newest):
        return [
            {
                "en": f"The card's format is newer than this program knows ({spec} {version}): it is kept whole, "
                "but some of its fields may have no effect.",
                "zh": f"该角色卡的格式（{spec} {version}）比本程序支持的更新：内容会完整保留，但部分字段可能不起作用。",
            }
        ]
    return []


# -- as a character ----------------------------------------------------------------------------------------------------


def of_card(id: str, card: Mapping[str, Json]) -> Character:
    """Return the character of a card, whose types have been checked."""
    body = body_of(card)
    text = {key: as_lines(body.get(key)) for key in _TEXT_KEYS}
    alternates = body.get("alternate_greetings") or []
    greetings = [text["first_mes"], *map(as_lines, _list(alternates))]
    book = body.get("character_book")
    return Character(
        id=id,
        name=as_line(text["nickname"]) or as_line(text["name"]) or id,
        context=_context(text),
        greetings=tuple(one for one in greetings if one.strip()),
        examples=text["mes_example"].strip(),
        system_prompt=text["system_prompt"].strip(),
        post_history=text["post_history_instructions"].strip(),
        user_name=as_line(card.get("your_name")),
        lorebook=read_lorebook(book) if book is not None else None,
        creator_notes=text["creator_notes"].strip(),
        card=dict(card),
    )


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _context(text: Mapping[str, str]) -> str:
    """Return description, personality and scenario as one text."""
    return "\n\n".join(part for part in (text["description"].strip(), *_sections(text)) if part)


def _sections(text: Mapping[str, str]) -> tuple[str, str]:
    personality, scenario = text["personality"].strip(), text["scenario"].strip()
    return (_PERSONALITY + personality if personality else "", _SCENARIO + scenario if scenario else "")


# -- back into a card --------------------------------------------------------------------------------------------------


def card_with(card: Mapping[str, Json], character: Character) -> dict[str, Json]:
    """Return a copy of the card in which the fields that differ from those of `character` have been changed."""
    old, changed = of_card(character.id, card), dict(copy.deepcopy(card))
    edits = _edits(old, character, body_of(card))
    body = changed["data"] if isinstance(changed.get("data"), dict) else changed
    body.update(edits)
    if body is not changed:  # some programs write the fields of V1 beside `data`
        changed.update({key: value for key, value in edits.items() if key in changed})
    return changed


def _edits(old: Character, new: Character, body: Mapping[str, Json]) -> dict[str, Json]:
    """Return the fields of a card that have another value in `new`."""
    edits: dict[str, Json] = {}
    if new.name != old.name:
        edits["nickname" if as_text(body.get("nickname")).strip() else "name"] = new.name
    if new.context != old.context:
        edits |= _split_context(new.context, body)
    if new.greetings != old.greetings:
        first, *alternates = new.greetings or ("",)
        if first != as_lines(body.get("first_mes")):
            edits["first_mes"] = first
        if alternates != [as_lines(one) for one in _list(body.get("alternate_greetings"))]:
            edits["alternate_greetings"] = alternates
    for key, before, after in (
        ("mes_example", old.examples, new.examples),
        ("system_prompt", old.system_prompt, new.system_prompt),
        ("post_history_instructions", old.post_history, new.post_history),
    ):
        if before != after:
            edits[key] = after
    if _book_json(new.lorebook) != _book_json(old.lorebook):
        edits["character_book"] = _book_json(new.lorebook)
    return edits


def _split_context(context: str, body: Mapping[str, Json]) -> dict[str, Json]:
    """Return the three fields of a changed context. Sections at its end that have not changed stay in their fields."""
    text = {key: as_lines(body.get(key)) for key in ("description", "personality", "scenario")}
    fields: dict[str, Json] = {"personality": "", "scenario": ""}
    personality, scenario = _sections(text)
    for key, section in (("scenario", scenario), ("personality", personality)):
        if section and context.endswith(section):
            context = context.removesuffix(section).rstrip()
            fields[key] = body[key]
    return {"description": context, **fields}


def _book_json(book: Lorebook | None) -> Json:
    return book.to_json() if book is not None else None


# -- versions ----------------------------------------------------------------------------------------------------------


def new_card(character: Character) -> dict[str, Json]:
    """Return a card V2 for a character that has none."""
    fields = dict.fromkeys((*_V1_KEYS, "system_prompt", "post_history_instructions", "creator_notes", "creator"), "")
    data: dict[str, Json] = {
        **fields,
        "name": character.name,
        "alternate_greetings": [],
        "tags": [],
        "character_version": "",
    }
    empty = {"spec": "chara_card_v2", "spec_version": "2.0", "data": {**data, "extensions": {}}}
    return card_with(empty, character)


def as_version(card: Mapping[str, Json], spec: str) -> dict[str, Json]:
    """Return the card in the format `spec`, one of SPECS; a card that has this format is returned as it is."""
    if card.get("spec") == spec:
        return dict(card)
    data: dict[str, Any] = copy.deepcopy(dict(body_of(card)))
    texts = (
        *_V1_KEYS,
        "name",
        "creator_notes",
        "system_prompt",
        "post_history_instructions",
        "creator",
        "character_version",
    )
    for key in texts:
        data[key] = data.get(key) if isinstance(data.get(key), str) else ""
    for key in ("alternate_greetings", "tags"):
        data[key] = _list(data.get(key))
    data.setdefault("extensions", {})
    if spec == "chara_card_v3":
        data.setdefault("group_only_greetings", [])
    return {"spec": spec, "spec_version": SPECS[spec], "data": data}


def _number(version: Json) -> float:
    match = re.match(r"\d{1,9}(\.\d{1,9})?", str(version))
    return float(match[0]) if match else 0.0
