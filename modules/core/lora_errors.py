"""Errors about LoRAs: missing, unsuitable for the model, not convertible, or refused by the backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from modules.core.errors import UnknownName, WebUIError, Words


class LoraError(WebUIError):
    status = 422


class LoraNotFound(UnknownName, LoraError):
    status = 404
    template = {"en": "There is no LoRA {name!r}.", "zh": "没有名为{name!r}的 LoRA。"}


@dataclass(eq=False)
class LoraMismatch(LoraError):
    """A LoRA for another model. `tensor` is the first misfit by its name in the LoRA; `others` counts more."""

    template = {
        "en": "The LoRA {lora} does not fit {model}: {tensor}: {why}{more}",
        "zh": "LoRA {lora} 与 {model} 不匹配：{tensor}：{why}{more}",
    }
    more: ClassVar[Words] = {
        "en": " {others} more of its tensors do not fit either.",
        "zh": "另有 {others} 个张量也不匹配。",
    }
    lora: str
    model: str
    tensor: str
    why: Words
    others: int = 0

    def shown(self, language: str) -> dict[str, object]:
        more = self.more[language].format(others=self.others) if self.others else ""
        return super().shown(language) | {"more": more}


@dataclass(eq=False)
class LoraInexpressible(LoraError):
    """A LoRA that `loader` cannot apply. `what` is a whole sentence; `advice` names what can be done, or is empty."""

    template = {
        "en": "The LoRA {lora} cannot be used with {loader}: {what} {advice}",
        "zh": "LoRA {lora} 无法用于 {loader}：{what}{advice}",
    }
    lora: str
    loader: str
    what: Words
    advice: Words

    def say(self, language: str) -> str:
        return super().say(language).rstrip()


@dataclass(eq=False)
class LoraNotWritten(LoraError):
    """A LoRA whose GGUF form could not be written. `why` is the message of the operating system."""

    status = 500
    template = {
        "en": "The LoRA {lora} was not converted to GGUF: {folder} is not writable ({why}).",
        "zh": "未能将 LoRA {lora} 转换为 GGUF：无法写入 {folder}（{why}）。",
    }
    lora: str
    folder: str
    why: str


@dataclass(eq=False)
class LoraRefused(LoraError):
    """A LoRA that the backend could not apply. `words` is its message."""

    template = {
        "en": "The LoRA {lora} could not be applied: {words}",
        "zh": "未能应用 LoRA {lora}：{words}",
    }
    lora: str
    words: str


@dataclass(eq=False)
class LoraWithoutEffect(LoraError):
    template = {
        "en": "The LoRA {lora} has no effect: it changes no logit of a test prompt. It may be untrained.",
        "zh": "LoRA {lora} 不起作用：测试提示词的 logits 没有任何变化，它可能未经训练。",
    }
    lora: str
