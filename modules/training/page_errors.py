"""Errors of the Training page.

BadParameterFile · BadUpload   files from the browser
BaseNotLoaded                  a comparison without the base model
MergeBusy                      a second merge
"""

from __future__ import annotations

import dataclasses

from modules.core.errors import WebUIError
from modules.training.dataset.files import TEXT_SUFFIX
from modules.training.dataset.rows import MAX_BYTES, ROW_SUFFIXES

DATA_SUFFIXES = (*ROW_SUFFIXES, TEXT_SUFFIX)


class BadUpload(WebUIError):
    status = 422
    template = {
        "en": f"The file was not added: expected a name that ends in {', '.join(DATA_SUFFIXES)}, and at most "
        f"{MAX_BYTES // 1_000_000} MB.",
        "zh": f"未添加此文件：文件名应以 {'、'.join(DATA_SUFFIXES)} 结尾，大小不超过 {MAX_BYTES // 1_000_000} MB。",
    }


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
