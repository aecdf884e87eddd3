"""What lies behind a backend's words when it cannot load a model: a named cause, and what to do about it."""

from __future__ import annotations

import re

from modules.errors import UNNAMED, Words

_TABLE: tuple[tuple[str, Words], ...] = (
    (
        r"unknown model architecture: '([^']*)'|does not recognize this architecture.*?`([^`]*)`",
        {
            "en": "its architecture ({0}) is unknown to the installed version. Newer models need newer packages.",
            "zh": "已安装的版本不认识其架构（{0}）。较新的模型需要更新软件包。",
        },
    ),
    (
        r"unknown pre-tokenizer type: '([^']*)'",
        {
            "en": "its tokenizer ({0}) is unknown to the installed version. Newer models need newer packages.",
            "zh": "已安装的版本不认识其词符化器（{0}）。较新的模型需要更新软件包。",
        },
    ),
    (
        r"failed to allocate|unable to allocate|out of memory|cannot allocate memory|MemoryError",
        {
            "en": "there is not enough memory. Lower n_ctx, keep the cache in 8 or 4 bits, or take a smaller model.",
            "zh": "内存不足。请调小 n_ctx、使用 8 位或 4 位缓存，或换用更小的模型。",
        },
    ),
    (
        r"key not found in model: (tokenizer\.\S+)|cannot find tokenizer",
        {
            "en": "its tokenizer is missing: the file was not converted in full. Download another copy of the model.",
            "zh": "缺少词符化器：该文件转换不完整。请下载此模型的其他版本。",
        },
    ),
    (
        r"key not found in model: (\S+)|missing tensor '([^']*)'|tensor '([^']*)' not found|wrong number of tensors",
        {
            "en": "the file lacks something that its architecture needs ({0}). Download it again, or another copy.",
            "zh": "文件缺少该架构所需的内容（{0}）。请重新下载或换用其他版本。",
        },
    ),
    (
        r"tensor '([^']*)' has wrong shape",
        {
            "en": "what it says of itself does not match its weights ({0}). Download it again, or another copy.",
            "zh": "文件的说明与其权重（{0}）不符。请重新下载或换用其他版本。",
        },
    ),
    (
        r"failed to open|permission denied|mmap failed|read error",
        {
            "en": "the file cannot be read. See whether the disk is there and whether you may read it.",
            "zh": "无法读取该文件。请检查磁盘及读取权限。",
        },
    ),
)


def cause(words: str) -> Words:
    """What the backend's `words` come down to, as the end of a sentence."""
    for pattern, told in _TABLE:
        if found := re.search(pattern, words, re.IGNORECASE):
            what = next(filter(None, found.groups()), "…")
            return {language: sentence.format(what) for language, sentence in told.items()}
    return UNNAMED
