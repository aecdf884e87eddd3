"""The command line of `download-model.py`: the original's arguments, and where to download from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modules.core.errors import CommandLineError, Words
from modules.options.option import FlagParser, Option, Value


def _option(key: str, default: Value, label: Words, what: Words, **more: float) -> Option:
    return Option(key, key.replace("_", "-"), default, label, what, **more)  # type: ignore[arg-type]


MODEL = _option(
    "MODEL",
    "",
    {"en": "Model", "zh": "模型"},
    {
        "en": "user/model, user/model:branch or a Hugging Face link.",
        "zh": "用户名/模型名、用户名/模型名:分支，或 Hugging Face 链接。",
    },
)

_FLAGS = (
    _option(
        "branch",
        "",
        {"en": "Branch", "zh": "分支"},
        {"en": "The branch or commit to download; main unless said.", "zh": "要下载的分支或版本，默认 main。"},
    ),
    _option(
        "threads",
        4,
        {"en": "Connections", "zh": "连接数"},
        {"en": "Over how many connections a large file comes.", "zh": "大文件同时使用的连接数。"},
        minimum=1,
        maximum=16,
    ),
    _option(
        "text_only",
        False,
        {"en": "Text only", "zh": "仅文本"},
        {"en": "Only what describes the model, without weights.", "zh": "只下载说明文件，不下载权重。"},
    ),
    _option(
        "specific_file",
        "",
        {"en": "File", "zh": "文件名"},
        {"en": "Only this file; of a split one, all parts.", "zh": "只下载此文件（分卷文件则为全部分卷）。"},
    ),
    _option(
        "exclude_pattern",
        "",
        {"en": "Leave out", "zh": "排除"},
        {
            "en": "Leave out files whose path begins as this regular expression says.",
            "zh": "排除路径开头符合此正则表达式的文件。",
        },
    ),
    _option(
        "allow_pickles",
        False,
        {"en": "Pickles too", "zh": "允许 pickle"},
        {
            "en": "Also weights that there are as pickles only (.bin, .pt): loading them may run code that is in them.",
            "zh": "权重只有 pickle 格式（.bin、.pt）时也下载：加载时可能执行其中的代码。",
        },
    ),
    _option(
        "output",
        "",
        {"en": "Folder", "zh": "输出目录"},
        {"en": "Put the files into this folder.", "zh": "将文件保存到此目录。"},
    ),
    _option(
        "model_dir",
        "",
        {"en": "Models folder", "zh": "模型目录"},
        {"en": "Where models lie, if not in models/.", "zh": "存放模型的目录（默认 models/）。"},
    ),
    _option(
        "lora_dir",
        "",
        {"en": "LoRA folder", "zh": "LoRA 目录"},
        {"en": "Where LoRAs lie, if not in loras/.", "zh": "存放 LoRA 的目录（默认 loras/）。"},
    ),
    _option(
        "clean",
        False,
        {"en": "Begin anew", "zh": "重新开始"},
        {"en": "Do not go on with an earlier, interrupted download.", "zh": "不续传之前中断的下载。"},
    ),
    _option(
        "check",
        False,
        {"en": "Check", "zh": "校验"},
        {"en": "Download nothing; verify the files that are here.", "zh": "不下载，只校验已有文件。"},
    ),
    _option(
        "max_retries",
        5,
        {"en": "Retries", "zh": "重试次数"},
        {"en": "How often to try again when nothing comes.", "zh": "没有进展时的重试次数。"},
        minimum=0,
        maximum=100,
    ),
    _option(
        "hf_endpoint",
        "",
        {"en": "Endpoint", "zh": "下载站点"},
        {
            "en": "Where to download from, above HF_ENDPOINT and settings.yaml; without any: https://hf-mirror.com.",
            "zh": "下载站点，优先于 HF_ENDPOINT 与 settings.yaml；都未指定时用 https://hf-mirror.com。",
        },
    ),
)

FLAGS: Mapping[str, Option] = {option.key: option for option in _FLAGS}


class _Parser(FlagParser):
    """One word is the model's. A switch takes no value, or it would take that word."""

    def __init__(self) -> None:
        super().__init__(FLAGS.values(), "Downloads a model or a LoRA. 下载模型或 LoRA。")
        self.known[MODEL.key] = MODEL
        self.add_argument(MODEL.key, nargs="?", help=f"{MODEL.help['zh']} {MODEL.help['en']}")
        self._switches = {f"--{each.flag}" for each in FLAGS.values() if isinstance(each.default, bool)}

    def _canonical(self, word: str) -> str:
        word = super()._canonical(word)
        return f"{word}=true" if word in self._switches else word


def read(words: Iterable[str]) -> dict[str, Value]:
    """What was typed and, of the rest, the defaults. OptionError, UnknownOption or CommandLineError; `--help` prints
    and exits."""
    typed = _Parser().parse(words)
    if not typed.get(MODEL.key):
        raise CommandLineError(
            {"en": "which model? Give user/model or a link.", "zh": "缺少模型：用户名/模型名或链接。"}
        )
    return {key: option.default for key, option in FLAGS.items()} | typed
