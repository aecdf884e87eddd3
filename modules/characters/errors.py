"""Errors of characters, cards and personas.

CharacterError
├── CharacterNotFound · PersonaNotFound   an id that does not exist (any more)
├── NameMissing           a character or persona without a name
├── InvalidCharacter      a file that cannot be read: which one, and what is wrong with it
├── CharacterChanged      a change of what is no longer the latest version of the file
├── CharacterExists       a restored character or persona would replace another one
├── CardRefused           a file that is not imported, or a picture that is not taken
├── CardNotExported       a character that cannot be written in a format
└── CharacterNotSaved     the disk refused to write
"""

from __future__ import annotations

from dataclasses import dataclass

from modules.conversations.errors import ConversationNotSaved
from modules.core.errors import WebUIError, Words


class CharacterError(WebUIError):
    """Base of the errors of characters and personas."""


class CardProblem(Exception):
    """A fault of a file's content, as the end of a sentence."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.words: Words = {"en": en, "zh": zh}


@dataclass(eq=False)
class CharacterNotFound(CharacterError):
    status = 404
    template = {
        "en": "The character {id!r} no longer exists: its file may have been deleted or renamed. Choose another one.",
        "zh": "角色{id!r}已不存在，其文件可能已被删除或改名。请选择其他角色。",
    }
    id: str


@dataclass(eq=False)
class PersonaNotFound(CharacterError):
    status = 404
    template = {
        "en": "The persona {id!r} no longer exists: its file may have been deleted or renamed. Choose another one.",
        "zh": "用户身份{id!r}已不存在，其文件可能已被删除或改名。请选择其他身份。",
    }
    id: str


class NameMissing(CharacterError):
    status = 400
    template = {"en": "Not saved: enter a name first.", "zh": "未保存：请先填写名称。"}


@dataclass(eq=False)
class InvalidCharacter(CharacterError):
    """A file that cannot be read as a character or persona. `problem` is the end of a sentence."""

    status = 422
    template = {
        "en": "{file} cannot be read: {problem}. Correct the file, or delete it.",
        "zh": "无法读取 {file}：{problem}。请修正或删除该文件。",
    }
    file: str
    problem: Words


@dataclass(eq=False)
class CharacterChanged(CharacterError):
    status = 409
    template = {
        "en": "Not saved: {name} was changed in another window or by another program. Your text is still here; "
        "reload the character, or save again to overwrite it.",
        "zh": "未保存：{name} 已在其他窗口或由其他程序更改。您输入的内容仍在；请重新载入该角色，或再次保存以覆盖。",
    }
    name: str


@dataclass(eq=False)
class CharacterExists(CharacterError):
    status = 409
    template = {
        "en": "Not restored: there is another {name} now. Rename or delete it first.",
        "zh": "未恢复：已有另一个 {name}。请先将其改名或删除。",
    }
    name: str


@dataclass(eq=False)
class CardRefused(CharacterError):
    """A file that was not taken; `problem` is the reason, as the end of a sentence."""

    status = 422
    template = {"en": "{name} was not imported: {problem}.", "zh": "未导入 {name}：{problem}。"}
    name: str
    problem: Words


@dataclass(eq=False)
class CardNotExported(CharacterError):
    """`problem` is the reason, and what to do about it."""

    status = 422
    template = {"en": "{name} was not exported: {problem}.", "zh": "未导出 {name}：{problem}。"}
    name: str
    problem: Words


@dataclass(eq=False)
class CharacterNotSaved(CharacterError):
    """`reason` is the operating system's message."""

    status = 507
    template = ConversationNotSaved.template
    folder: str
    reason: str
