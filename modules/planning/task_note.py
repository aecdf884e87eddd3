"""The note on a model that computes vectors or scores instead of generating text."""

from __future__ import annotations

from modules.catalog.record import ModelRecord
from modules.core.events import Note
from modules.formats.embedding import EMBED

_OPTION = "chat_template"


def task_note(record: ModelRecord) -> Note | None:
    """Return what such a model is for, beside the chat template that it does not need; None for one that chats."""
    if not record.task:
        return None
    if record.task == EMBED:
        return Note(
            _OPTION,
            {
                "en": "This is an embedding model: it serves /v1/embeddings and cannot chat.",
                "zh": "这是嵌入模型：用于 /v1/embeddings 接口，不能聊天。",
            },
        )
    return Note(
        _OPTION,
        {
            "en": "This is a reranking model: it serves /v1/rerank and cannot chat.",
            "zh": "这是重排序模型：用于 /v1/rerank 接口，不能聊天。",
        },
    )
