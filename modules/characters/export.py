"""Write a character as a file for other programs."""

from __future__ import annotations

import re
from pathlib import Path

from modules.characters import png
from modules.characters.card import card_with, dump_json, new_card
from modules.characters.character import Character
from modules.characters.errors import CardNotExported, CardProblem
from modules.config.yaml_file import as_block, dump
from modules.conversations.exporters.export import ExportedFile
from modules.core.events import Json
from modules.core.quotes import in_quotes

FORMATS = ("png", "json", "yaml")
_UNSAFE = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]+')


def export(character: Character, format: str, picture: Path | bytes | None) -> ExportedFile:
    """Return the character in one of FORMATS. Raises CardNotExported.

    "png" is its picture with the card as V2 and V3, "json" the card as it was imported, with what was changed since,
    "yaml" a character of the original web UI.
    """
    name = _UNSAFE.sub(" ", character.id).strip() or "character"
    if format == "json":
        return ExportedFile(f"{name}.json", "application/json", dump_json(card_of(character), indent=1).encode())
    if format == "yaml":
        return ExportedFile(f"{name}.yaml", "application/yaml", _original(character).encode("utf-8", "replace"))
    if format != "png":
        known = ", ".join(FORMATS)
        raise CardNotExported(
            name,
            {"en": f"there is no format {format!r}, only {known}", "zh": f"没有格式{in_quotes(format)}，只有 {known}"},
        )
    return ExportedFile(f"{name}.png", "image/png", _png(character, name, picture))


def card_of(character: Character) -> dict[str, Json]:
    """Return the character's card with what was changed since it was imported; a card V2 if it had none."""
    return card_with(character.card, character) if character.card is not None else new_card(character)


def _png(character: Character, name: str, picture: Path | bytes | None) -> bytes:
    if isinstance(picture, Path) and picture.suffix != ".png":
        kind = picture.suffix[1:].upper()
        problem = {
            "en": f"its picture is a {kind} file; choose it again in the editor, which stores it as PNG",
            "zh": f"其图片是 {kind} 文件；请在编辑器中重新选择图片，程序会存为 PNG",
        }
        raise CardNotExported(name, problem)
    try:
        data = picture.read_bytes() if isinstance(picture, Path) else picture
        return png.with_card(data or png.blank_picture(), card_of(character))
    except CardProblem as problem:
        raise CardNotExported(name, problem.words) from problem
    except OSError as error:
        reason = error.strerror or str(error)
        raise CardNotExported(name, {"en": reason, "zh": reason}) from error


def _original(character: Character) -> str:
    """Return the YAML of the original, whose context contains the example dialogue."""
    context = "\n\n".join(filter(None, (character.context, character.examples)))
    fields = {"name": character.name, "your_name": character.user_name, "greeting": "".join(character.greetings[:1])}
    return dump(
        {key: as_block(value) for key, value in {**fields, "context": context}.items() if value or key != "your_name"}
    )
