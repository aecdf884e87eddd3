"""Errors of conversations and their files.

ConversationError
├── ConversationNotFound · MessageNotFound   an id that does not exist (any more)
├── InvalidTitle          a title that cannot be stored
├── InvalidConversation   a file that is damaged or not a conversation: which one, and what is wrong with it
├── ReadOnlyConversation  a file that may be shown but not changed
├── StaleConversation     a change of a revision that is no longer the latest one
├── ConversationExists    a restored conversation would replace another one
├── AttachmentRefused     a file that cannot be attached to a message
├── ImportRefused         a file that has no conversations, or too much to be imported at once
├── UnknownExportFormat   a format that does not exist
├── ConversationNotSaved  the disk refused to write
└── VisitorMemoryFull     so did the memory for visitors whose conversations are not stored
"""

from __future__ import annotations

from dataclasses import dataclass

from modules.core.errors import WebUIError, Words


class ConversationError(WebUIError):
    """Base of the errors of conversations."""


@dataclass(eq=False)
class ConversationNotFound(ConversationError):
    status = 404
    template = {
        "en": "This conversation no longer exists: it may have been deleted or moved. Choose another one.",
        "zh": "该对话已不存在，可能已被删除或移动。请选择其他对话。",
    }
    id: str


@dataclass(eq=False)
class MessageNotFound(ConversationError):
    status = 404
    template = {
        "en": "This message no longer exists: it may have been deleted in another window. Reload the conversation.",
        "zh": "该消息已不存在，可能已在其他窗口中被删除。请重新打开此对话。",
    }
    id: str


@dataclass(eq=False)
class InvalidTitle(ConversationError):
    """`reason` says what is wrong with the title, as the end of a sentence."""

    status = 400
    template = {"en": "The title was not changed: {reason}.", "zh": "标题未更改：{reason}。"}
    reason: Words


@dataclass(eq=False)
class InvalidConversation(ConversationError):
    """A file that cannot be read as a conversation. `problem` is the end of a sentence."""

    status = 422
    template = {
        "en": "{file} cannot be opened: {problem}. The file was left unchanged.",
        "zh": "无法打开 {file}：{problem}。文件保持原样。",
    }
    file: str
    problem: Words


@dataclass(eq=False)
class ReadOnlyConversation(ConversationError):
    """`problem` says why the conversation cannot be changed, as the end of a sentence."""

    status = 409
    template = {
        "en": "This conversation cannot be changed: {problem}.",
        "zh": "无法更改此对话：{problem}。",
    }
    problem: Words


@dataclass(eq=False)
class StaleConversation(ConversationError):
    """A change that was based on another revision than `rev`, the latest one."""

    status = 409
    template = {
        "en": "This conversation was changed in another window, so nothing was done. "
        "It is now shown as it is; try again.",
        "zh": "此对话已在其他窗口中更改，本次操作未执行。现已显示最新内容，请重试。",
    }
    id: str
    rev: int


@dataclass(eq=False)
class ConversationExists(ConversationError):
    status = 409
    template = {
        "en": "Not restored: {file} exists already. Rename or delete that conversation first.",
        "zh": "未恢复：{file} 已存在。请先重命名或删除该对话。",
    }
    file: str


@dataclass(eq=False)
class ConversationNotSaved(ConversationError):
    """`reason` is the operating system's message."""

    status = 507
    template = {
        "en": "Not saved to {folder} ({reason}). Free some space or check the folder's permissions, then try again.",
        "zh": "未能保存到 {folder}（{reason}）。请清理磁盘空间或检查该文件夹的权限，然后重试。",
    }
    folder: str
    reason: str


@dataclass(eq=False)
class VisitorMemoryFull(ConversationError):
    status = 507
    template = {
        "en": "Not saved: conversations in memory (incognito, or without a login), and their files, may have "
        "{megabytes} MB each. Delete some that you no longer need, or go on in one that is stored.",
        "zh": "未能保存：保存在内存中的对话（无痕对话或未登录时的对话）及其文件各不得超过 {megabytes} MB。"
        "请删除不再需要的对话，或改用会保存的对话。",
    }
    megabytes: int


@dataclass(eq=False)
class AttachmentRefused(ConversationError):
    """A file that cannot be attached; `problem` is the reason, and what to do if something helps."""

    status = 422
    template = {"en": "{name} was not attached: {problem}.", "zh": "未添加 {name}：{problem}。"}
    name: str
    problem: Words


@dataclass(eq=False)
class ImportRefused(ConversationError):
    """A file of which nothing was imported; `problem` is the reason, as a sentence."""

    status = 422
    template = {"en": "{name} was not imported: {problem}", "zh": "未导入 {name}：{problem}"}
    name: str
    problem: Words


@dataclass(eq=False)
class UnknownExportFormat(ConversationError):
    """`known` lists the formats that exist."""

    status = 400
    template = {
        "en": "There is no export format {format!r}. Use one of: {known}.",
        "zh": "没有名为{format!r}的导出格式，可用的有：{known}。",
    }
    format: str
    known: str
