"""Errors of the worker process that holds a model: it does not load, does not finish an answer, or ends."""

from __future__ import annotations

import dataclasses
import signal
from dataclasses import dataclass
from typing import ClassVar

from modules.core.errors import WebUIError, Words
from modules.core.quotes import fill

UNNAMED: Words = {"en": "the backend reports:", "zh": "后端报告如下："}
"""The cause of a failure that is not one of the known ones."""


@dataclass(eq=False)
class LoadFailed(WebUIError):
    """A failed load. `words` is the backend's message, `cause` its explanation as the end of a sentence."""

    template = {
        "en": "{loader} could not load {model}: {cause}\n{words}",
        "zh": "{loader} 无法加载 {model}：{cause}\n{words}",
    }
    loader: str
    model: str
    words: str
    cause: Words = dataclasses.field(default_factory=lambda: UNNAMED)


@dataclass(eq=False)
class LoadCancelled(WebUIError):
    status = 409
    template = {"en": "Loading {model} was cancelled.", "zh": "已取消加载 {model}。"}
    model: str


@dataclass(eq=False)
class GenerationFailed(WebUIError):
    template = {"en": "{loader} failed while generating: {words}", "zh": "{loader} 生成时出错：{words}"}
    loader: str
    words: str


@dataclass(eq=False)
class ImageUnreadable(WebUIError):
    """A picture that cannot be decoded; `words` is the message of the decoder."""

    status = 400
    template = {"en": "The image is damaged: {words}", "zh": "图片已损坏：{words}"}
    words: str


@dataclass(eq=False)
class ImageRejected(WebUIError):
    """A picture that the model's own image processor refuses; `words` is its message."""

    status = 400
    template = {
        "en": "The model's image processor refuses the image ({words}). Send it in another size or format.",
        "zh": "模型的图片处理器拒绝了该图片（{words}）。请换一种尺寸或格式。",
    }
    words: str


@dataclass(eq=False)
class TooManyPixels(WebUIError):
    """Pictures of one prompt with more than so many `millions` of pixels together."""

    status = 400
    template = {
        "en": "The images have more than {millions} million pixels together. Send smaller or fewer ones.",
        "zh": "图片合计超过 {millions} 百万像素。请缩小图片或减少数量。",
    }
    millions: int


@dataclass(eq=False)
class Unloaded(WebUIError):
    status = 409
    template = {
        "en": "The model was unloaded before the answer was complete.",
        "zh": "回复尚未完成，模型已被卸载。",
    }


_SIGKILL = 9


@dataclass(eq=False)
class WorkerDied(WebUIError):
    """The end of a worker process. A negative `exit_code` is a signal's number; `words` is the end of its stderr."""

    template = {
        "en": "The model stopped while {doing} ({how}).{cause} Load it again to continue.{tail}",
        "zh": "模型在{doing}时意外停止（{how}）。{cause}重新加载即可继续。{tail}",
    }
    killed: ClassVar[Words] = {
        "en": " The system killed it, usually for lack of memory.",
        "zh": "系统终止了它，通常是因为内存不足。",
    }
    tail: ClassVar[Words] = {"en": "\nIts last output: {words}", "zh": "\n日志末尾：{words}"}
    exit_code: int
    doing: Words
    words: str = ""

    def shown(self, language: str) -> dict[str, object]:
        tail = self.tail[language].format(words=self.words) if self.words else ""
        cause = self.killed[language] if self.exit_code == -_SIGKILL else ""
        return super().shown(language) | {"how": _how_it_ended(self.exit_code), "cause": cause, "tail": tail}


@dataclass(eq=False)
class WorkerStuck(WorkerDied):
    """The end of a worker that spent too long on one token. `grammar` is the beginning of the one it was probably for.

    The model is loaded again without being asked for.
    """

    template = {
        "en": "A token took longer than the limit, so the model's process was ended; the model is being loaded again. "
        "{cause}",
        "zh": "生成一个词符的时间超过上限，模型进程已终止，正在重新加载模型。{cause}",
    }
    because: ClassVar[Words] = {
        "en": "Probably because of this grammar: {grammar!r}",
        "zh": "可能由此语法引起：{grammar!r}",
    }
    grammar: str = ""

    def shown(self, language: str) -> dict[str, object]:
        cause = fill(self.because, language, {"grammar": self.grammar}) if self.grammar else ""
        return super().shown(language) | {"cause": cause}


@dataclass(eq=False)
class PromptTooLong(WebUIError):
    """A prompt of more than `limit` tokens, which is less than the context: the answer needs room too."""

    status = 400
    template = {
        "en": "The prompt has {tokens} tokens, but the context has room for {limit}. "
        "Shorten it, or load the model with a larger context length.",
        "zh": "提示词有 {tokens} 个词符，而上下文只能容纳 {limit} 个。请缩短提示词，或以更大的上下文长度加载模型。",
    }
    tokens: int
    limit: int


@dataclass(eq=False)
class TextTooLong(WebUIError):
    """A prompt so long that it cannot fit whatever its tokens are; it is not tokenized."""

    status = 400
    template = {
        "en": "The prompt has {characters} characters, but the context has room for {limit} tokens. "
        "Shorten it, or load the model with a larger context length.",
        "zh": "提示词有 {characters} 个字符，而上下文只能容纳 {limit} 个词符。"
        "请缩短提示词，或以更大的上下文长度加载模型。",
    }
    characters: int
    limit: int


@dataclass(eq=False)
class ReferenceUnusable(WebUIError):
    """Log-probabilities that another model has stored in `file`, which cannot be compared with this model's."""

    status = 400
    template = {
        "en": "This model cannot be compared with the results in {file}: {why}",
        "zh": "无法将此模型与 {file} 中的结果比较：{why}",
    }
    file: str
    why: Words


@dataclass(eq=False)
class ReferenceNotStored(WebUIError):
    """Log-probabilities that could not be written to `file`; `words` is the message of the system."""

    status = 507
    template = {
        "en": "The results for comparison could not be stored in {file}: {words}. Free disk space and try again.",
        "zh": "无法将用于比较的结果写入 {file}：{words}。请释放磁盘空间后重试。",
    }
    file: str
    words: str


def _how_it_ended(exit_code: int) -> str:
    """Return "SIGSEGV" for -11, "exit status 1" for 1."""
    if exit_code < 0:
        try:
            return signal.Signals(-exit_code).name
        except ValueError:
            return f"signal {-exit_code}"
    return f"exit status {exit_code}"
