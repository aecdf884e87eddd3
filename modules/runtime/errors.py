"""Errors of having several models: no room, no turn, or a model that is asleep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from modules.core.errors import NoModelLoaded, WebUIError

GIB = 1 << 30


@dataclass(eq=False)
class InsufficientMemory(WebUIError):
    """A model for which no idle model can make room. `needed` are bytes, 0 if unknown; `holders` names with bytes."""

    status: ClassVar[int] = 503
    retry_after: ClassVar[int] = 60
    template = {
        "en": "There is not enough memory for {model}{need}: {held}. Unload or unpin a model, or choose a smaller one.",
        "zh": "内存不足，无法加载 {model}{need}：{held}。请卸载模型或取消固定，或换用更小的模型。",
    }
    model: str
    needed: int
    holders: Sequence[tuple[str, int]]

    def shown(self, language: str) -> dict[str, object]:
        chinese = language == "zh"
        need = f"{self.needed / GIB:.1f} GB" if self.needed else ""
        names = ("、" if chinese else ", ").join(f"{name} ({size / GIB:.1f} GB)" for name, size in self.holders)
        if chinese:
            return {
                "model": self.model,
                "need": f"（约需 {need}）" if need else "",
                "held": f"正被 {names} 占用" if names else "正被其他程序占用",
            }
        return {
            "model": self.model,
            "need": f", which needs about {need}" if need else "",
            "held": f"it is held by {names}" if names else "it is held by other programs",
        }


@dataclass(eq=False)
class NotInMemory(WebUIError):
    """A model that was to be unloaded, but is not loaded."""

    status: ClassVar[int] = 400
    template = {"en": "{model} is not loaded.", "zh": "{model} 未加载。"}
    model: str


@dataclass(eq=False)
class ModelsBusy(WebUIError):
    """A request that has waited too long for its model, or that came when too many waited."""

    status: ClassVar[int] = 503
    retry_after: ClassVar[int] = 30
    template = {
        "en": "{model} is not available yet: other models are still answering, and requests are waiting. Try again "
        "later.",
        "zh": "{model} 暂时无法使用：其他模型仍在生成，已有请求在排队。请稍后再试。",
    }
    model: str


@dataclass(eq=False)
class ModelAsleep(NoModelLoaded):
    """The model has not been used for a while. Its settings are kept."""

    status: ClassVar[int] = 503
    template = {
        "en": "{model} is asleep. The next message wakes it.",
        "zh": "{model} 正在休眠，发送下一条消息即可唤醒。",
    }
    template_elsewhere = {
        "en": "{model} is asleep. A request for an answer wakes it; this one does not.",
        "zh": "{model} 正在休眠。请求生成回复即可唤醒，本接口不会唤醒模型。",
    }
    model: str
