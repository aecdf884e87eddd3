"""Errors of evaluations.

EvaluationError
├── TextNotFound          a text that does not exist (any more)
├── TextUnreadable        a file that cannot be read as text: which one, and why
├── TextTooShort          a text that has too few tokens for a single window
├── WindowTooLong         a window that the model's context cannot hold
├── EvaluationNotFound    an evaluation that does not exist (any more)
├── TooManyEvaluations    the queue is full
├── ModelsInTheWay        other models would have to be unloaded
├── LorasChanged          LoRAs that were applied or removed while the model was evaluated
├── KlImpossible          distributions of which there is no comparison, and why
├── ResultsUnreadable     the file of results is damaged
├── ResultNotFound        a result that is no longer in that file
└── ResultsNotSaved       the disk refused to write
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules.core.errors import WebUIError, Words


class EvaluationError(WebUIError):
    """Base of the errors of evaluations."""


@dataclass(eq=False)
class TextNotFound(EvaluationError):
    status = 404
    template = {
        "en": "There is no text {name!r} in {folder}. Choose another one, or put a .txt file there.",
        "zh": "{folder} 中没有文本“{name}”。请选择其他文本，或将 .txt 文件放入该文件夹。",
    }
    name: str
    folder: str


@dataclass(eq=False)
class TextUnreadable(EvaluationError):
    """`why` is a whole sentence."""

    status = 400
    template = {"en": "{name} cannot be read as text. {why}", "zh": "无法将 {name} 作为文本读取。{why}"}
    name: str
    why: Words


@dataclass(eq=False)
class TextTooShort(EvaluationError):
    status = 400
    template = {
        "en": "{name} is too short: it has {tokens} tokens, and the first window needs {needed}. Take a longer text, "
        "or reduce max_length.",
        "zh": "{name} 太短：只有 {tokens} 个词符，而第一个窗口需要 {needed} 个。请换用更长的文本，或减小最大长度。",
    }
    name: str
    tokens: int
    needed: int


@dataclass(eq=False)
class WindowTooLong(EvaluationError):
    status = 400
    template = {
        "en": "Windows of {length} tokens do not fit the context of {model}, which has {context}. Reduce max_length, "
        "or load the model with a longer context.",
        "zh": "{length} 个词符的窗口超出了 {model} 的上下文（{context}）。请减小最大长度，或以更长的上下文加载模型。",
    }
    model: str
    length: int
    context: int


@dataclass(eq=False)
class EvaluationNotFound(EvaluationError):
    status = 404
    template = {
        "en": "The evaluation {id!r} does not exist (any more). The results of completed ones are in the table.",
        "zh": "评估“{id}”不存在或已被清除。已完成的结果见表格。",
    }
    id: str


@dataclass(eq=False)
class TooManyEvaluations(EvaluationError):
    status = 429
    template = {
        "en": "{count} evaluations are queued already. Wait until one has ended, or stop one.",
        "zh": "已有 {count} 个评估在排队。请等待其中一个结束，或停止一个。",
    }
    count: int


@dataclass(eq=False)
class ModelsInTheWay(EvaluationError):
    status = 409
    template = {
        "en": "Not started: {model} does not fit into memory beside {others}. Unload them first, or agree that they "
        "are unloaded.",
        "zh": "未开始：内存无法同时容纳 {model} 与 {others}。请先卸载，或同意将其卸载。",
    }
    model: str
    others: Sequence[str]

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {"others": ("、" if language == "zh" else ", ").join(self.others)}


@dataclass(eq=False)
class LorasChanged(EvaluationError):
    status = 409
    template = {
        "en": "The LoRAs of {model} were changed during its evaluation, which would mix them. Start it again.",
        "zh": "评估期间更改了 {model} 的 LoRA，结果会混杂。请重新评估。",
    }
    model: str


@dataclass(eq=False)
class KlImpossible(EvaluationError):
    """`why` is a whole sentence."""

    status = 400
    template = {
        "en": "The distributions cannot be compared. {why}",
        "zh": "无法比较概率分布。{why}",
    }
    why: Words


@dataclass(eq=False)
class ResultsUnreadable(EvaluationError):
    status = 422
    template = {
        "en": "{file} cannot be read ({why}). Repair it, or move it away; it has not been changed.",
        "zh": "无法读取 {file}（{why}）。请修复或移走该文件；程序未作改动。",
    }
    file: str
    why: str | Words


@dataclass(eq=False)
class ResultNotFound(EvaluationError):
    status = 404
    template = {
        "en": "This result is no longer in the table: the file was changed. Refresh the table.",
        "zh": "表格中已没有此结果：文件已被更改。请刷新表格。",
    }


@dataclass(eq=False)
class ResultsNotSaved(EvaluationError):
    status = 507
    template = {
        "en": "{file} could not be saved ({why}). Free disk space or check the permissions, then try again.",
        "zh": "无法保存 {file}（{why}）。请释放磁盘空间或检查权限后重试。",
    }
    file: str
    why: str
