"""Errors of the notebook.

NotebookError
├── NotebookNotFound      a text that does not exist (any more)
├── InvalidNotebookName   a name that cannot be that of a file
├── UnreadableNotebook    a file that cannot be shown as text: which one, and why
├── NotebookTooLong       a text that is longer than the notebook keeps
├── StaleNotebook         a change of a text that is no longer the latest one
├── NotebookBusy          a text that a model is writing into
├── NotebookNotSaved      the disk refused to write
├── NotebookMemoryFull    so did the memory for visitors whose texts are not stored
├── NothingToUndo · NothingToRedo · NothingToRegenerate
├── TokenChanged          a token that is no longer in the text
└── PartOfCharacter       a token that cannot be inserted, because it is only a part of a character
"""

from __future__ import annotations

from dataclasses import dataclass

from modules.conversations.errors import ConversationNotSaved
from modules.core.errors import WebUIError, Words


class NotebookError(WebUIError):
    """Base of the errors of the notebook."""


@dataclass(eq=False)
class NotebookNotFound(NotebookError):
    status = 404
    template = {
        "en": "The text {name!r} no longer exists: it may have been renamed or deleted. Choose another one.",
        "zh": "文稿“{name}”已不存在，可能已被重命名或删除。请选择其他文稿。",
    }
    name: str


@dataclass(eq=False)
class InvalidNotebookName(NotebookError):
    status = 400
    template = {
        "en": r'Not renamed: a name has at most 200 bytes and none of \ / : * ? " < > |, and does not begin or end '
        "with a dot.",
        "zh": r'未重命名：名称不得超过 200 字节，不得含有 \ / : * ? " < > |，也不得以点号开头或结尾。',
    }


@dataclass(eq=False)
class UnreadableNotebook(NotebookError):
    """A file that cannot be shown as text. `problem` is the end of a sentence."""

    status = 422
    template = {
        "en": "{file} cannot be opened: {problem}. The file was left unchanged.",
        "zh": "无法打开 {file}：{problem}。文件保持原样。",
    }
    file: str
    problem: Words


@dataclass(eq=False)
class NotebookTooLong(NotebookError):
    status = 413
    template = {
        "en": "Not saved: the text has {length:,} characters, and the notebook keeps {limit:,}. "
        "Move a part of it to another text.",
        "zh": "未保存：文稿有 {length:,} 个字符，笔记本最多保存 {limit:,} 个。请将一部分移到另一篇文稿。",
    }
    length: int
    limit: int


@dataclass(eq=False)
class StaleNotebook(NotebookError):
    """A change that was based on another revision than `rev`, the latest one."""

    status = 409
    template = {
        "en": "{name!r} was changed elsewhere, so nothing was saved here. Choose which of the two texts to keep.",
        "zh": "“{name}”已在别处更改，此处的内容尚未保存。请选择保留哪一份。",
    }
    name: str
    rev: str


@dataclass(eq=False)
class NotebookBusy(NotebookError):
    status = 409
    template = {
        "en": "The model is writing into {name!r}. Stop it first, or wait for its end.",
        "zh": "模型正在写入“{name}”。请先停止或等待其完成。",
    }
    name: str


@dataclass(eq=False)
class NotebookNotSaved(NotebookError):
    """`reason` is the operating system's message."""

    status = 507
    template = ConversationNotSaved.template
    folder: str
    reason: str


@dataclass(eq=False)
class NotebookMemoryFull(NotebookError):
    status = 507
    template = {
        "en": "Not saved: without a login, your texts may have {megabytes} MB in all. "
        "Delete texts that you no longer need, or ask the owner of this server for a login.",
        "zh": "未能保存：未登录时，所有文稿合计不得超过 {megabytes} MB。请删除不再需要的文稿，"
        "或向服务器的管理者申请登录账号。",
    }
    megabytes: int


@dataclass(eq=False)
class NothingToUndo(NotebookError):
    status = 409
    template = {
        "en": "There is nothing to undo: no generation of this text is kept.",
        "zh": "没有可撤销的内容：此文稿未保留任何一次生成。",
    }


@dataclass(eq=False)
class NothingToRedo(NotebookError):
    status = 409
    template = {
        "en": "There is nothing to redo: nothing was undone since the last generation.",
        "zh": "没有可重做的内容：上次生成之后没有撤销过。",
    }


@dataclass(eq=False)
class NothingToRegenerate(NotebookError):
    status = 409
    template = {
        "en": "There is nothing to regenerate: no generation of this text is kept. Use Generate.",
        "zh": "没有可重新生成的内容：此文稿未保留任何一次生成。请使用“生成”。",
    }


@dataclass(eq=False)
class TokenChanged(NotebookError):
    status = 409
    template = {
        "en": "This token is no longer in the text: it has been edited or generated anew. Choose another one.",
        "zh": "此词符已不在文稿中，文稿可能已被编辑或重新生成。请选择其他词符。",
    }


@dataclass(eq=False)
class PartOfCharacter(NotebookError):
    status = 409
    template = {
        "en": "This token is only a part of a character, so the text cannot be cut here. Choose a neighboring one.",
        "zh": "此词符只是一个字符的一部分，无法在此处截断。请选择相邻的词符。",
    }
