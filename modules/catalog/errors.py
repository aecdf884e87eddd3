"""Errors of deleting models and of restoring them from the bin."""

from __future__ import annotations

from dataclasses import dataclass

from modules.core.errors import WebUIError, Words


class DeletionError(WebUIError):
    status = 409


@dataclass(eq=False)
class NotDeletable(DeletionError):
    """A model that must not be deleted now. `why` is a whole sentence."""

    template = {"en": "{model} was not deleted. {why}", "zh": "未删除 {model}。{why}"}
    model: str
    why: Words


@dataclass(eq=False)
class NotRestorable(DeletionError):
    """A deleted model that cannot be moved back. `why` is a whole sentence."""

    template = {"en": "{model} was not restored. {why}", "zh": "未恢复 {model}。{why}"}
    model: str
    why: Words


class NotInBin(DeletionError):
    status = 404
    template = {
        "en": "This model is no longer in the bin: it was restored, or deleted for good. Refresh the list of models.",
        "zh": "回收站中已没有该模型：它已被恢复或彻底删除。请刷新模型列表。",
    }
