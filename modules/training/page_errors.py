"""Errors of the Training page.

BadParameterFile · BadUpload   files from the browser
BaseNotLoaded                  a comparison without the base model
MergeBusy                      a second merge
"""

from __future__ import annotations

import dataclasses

from modules.core.errors import WebUIError, Words


@dataclasses.dataclass(eq=False)
class BadUpload(WebUIError):
    """A file that is not added to the datasets. `problem` is the end of a sentence."""

    status = 422
    template = {"en": "{file} was not added: {problem}.", "zh": "未添加 {file}：{problem}。"}
    file: str
    problem: Words


class BadParameterFile(WebUIError):
    status = 422
    template = {
        "en": "The file cannot be used: expected a JSON object such as training_parameters.json of a LoRA.",
        "zh": "无法使用此文件：应为 JSON 对象，例如 LoRA 中的 training_parameters.json。",
    }


@dataclasses.dataclass(eq=False)
class BaseNotLoaded(WebUIError):
    status = 409
    template = {
        "en": "{model} is not loaded. Apply the LoRA first.",
        "zh": "尚未加载 {model}，请先应用此 LoRA。",
    }
    model: str


@dataclasses.dataclass(eq=False)
class MergeBusy(WebUIError):
    status = 409
    template = {
        "en": "Another LoRA is being merged into {name}. Wait until that has ended.",
        "zh": "正在合并到 {name}，请等待其完成。",
    }
    name: str
