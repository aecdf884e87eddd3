"""Command-line arguments of `download-model.py`: those of the original web UI, and the download endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modules.core.errors import CommandLineError, Words
from modules.options.option import FlagParser, Option, Value


def _option(key: str, default: Value, label: Words, description: Words, **limits: float) -> Option:
    return Option(key, key.replace("_", "-"), default, label, description, **limits)  # type: ignore[arg-type]


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
        {"en": "Branch or commit to download (default: main).", "zh": "要下载的分支或提交，默认 main。"},
    ),
    _option(
        "threads",
        4,
        {"en": "Connections", "zh": "连接数"},
        {"en": "Number of parallel connections for a large file.", "zh": "下载大文件时的并行连接数。"},
        minimum=1,
        maximum=16,
    ),
    _option(
        "text_only",
        False,
        {"en": "Text only", "zh": "仅文本"},
        {
            "en": "Download only the files that describe the model, without weights.",
            "zh": "只下载配置与说明文件，不下载权重。",
        },
    ),
    _option(
        "specific_file",
        "",
        {"en": "File", "zh": "文件名"},
        {
            "en": "Download only this file; all parts of a split file.",
            "zh": "只下载此文件（若为分卷文件，则下载全部分卷）。",
        },
    ),
    _option(
        "exclude_pattern",
        "",
        {"en": "Exclude", "zh": "排除"},
        {
            "en": "Exclude files whose path matches this regular expression from its beginning.",
            "zh": "排除路径开头匹配此正则表达式的文件。",
        },
    ),
    _option(
        "allow_pickles",
        False,
        {"en": "Allow pickles", "zh": "允许 pickle"},
        {
            "en": "Also download weights offered only as pickles (.bin, .pt): loading them may run code they contain.",
            "zh": "即使权重只有 pickle 格式（.bin、.pt）也下载：加载时可能执行其中的代码。",
        },
    ),
    _option(
        "output",
        "",
        {"en": "Folder", "zh": "输出文件夹"},
        {"en": "Save the files in this folder.", "zh": "将文件保存到此文件夹。"},
    ),
    _option(
        "model_dir",
        "",
        {"en": "Models folder", "zh": "模型文件夹"},
        {"en": "Folder of models (default: models/).", "zh": "模型所在文件夹，默认 models/。"},
    ),
    _option(
        "lora_dir",
        "",
        {"en": "LoRA folder", "zh": "LoRA 文件夹"},
        {"en": "Folder of LoRAs (default: loras/).", "zh": "LoRA 所在文件夹，默认 loras/。"},
    ),
    _option(
        "clean",
        False,
        {"en": "Start over", "zh": "重新开始"},
        {"en": "Start over instead of resuming an interrupted download.", "zh": "不续传之前中断的下载，从头开始。"},
    ),
    _option(
        "check",
        False,
        {"en": "Check", "zh": "校验"},
        {"en": "Download nothing; verify the local files.", "zh": "不下载，只校验本地已有文件。"},
    ),
    _option(
        "max_retries",
        5,
        {"en": "Retries", "zh": "重试次数"},
        {"en": "How often to retry when nothing arrives.", "zh": "没有收到数据时的重试次数。"},
        minimum=0,
        maximum=100,
    ),
    _option(
        "hf_endpoint",
        "",
        {"en": "Download site", "zh": "下载站点"},
        {
            "en": "Where to download from; overrides HF_ENDPOINT and settings.yaml. "
            "Default: https://hf-mirror.com, then https://huggingface.co.",
            "zh": "下载站点，优先于 HF_ENDPOINT 和 settings.yaml；均未指定时依次使用 https://hf-mirror.com "
            "和 https://huggingface.co。",
        },
    ),
)

FLAGS: Mapping[str, Option] = {option.key: option for option in _FLAGS}


class _Parser(FlagParser):
    """Parser with one positional argument, the model. Switches take no value, or they would swallow that argument."""

    def __init__(self) -> None:
        super().__init__(FLAGS.values(), "Downloads a model or a LoRA. 下载模型或 LoRA。")
        self.options[MODEL.key] = MODEL
        self.add_argument(MODEL.key, nargs="?", help=f"{MODEL.help['zh']} {MODEL.help['en']}")
        self._switches = {f"--{option.flag}" for option in FLAGS.values() if isinstance(option.default, bool)}

    def _canonical(self, word: str) -> str:
        word = super()._canonical(word)
        return f"{word}=true" if word in self._switches else word


def parse(arguments: Iterable[str]) -> dict[str, Value]:
    """Return the values of all options: those typed, and the defaults of the others. `--help` prints and exits.

    Raises OptionError, UnknownOption or CommandLineError.
    """
    typed = _Parser().parse(arguments)
    if not typed.get(MODEL.key):
        raise CommandLineError(
            {
                "en": "the model is missing. Give user/model or a link.",
                "zh": "缺少模型：请给出 用户名/模型名 或链接。",
            }
        )
    return {key: option.default for key, option in FLAGS.items()} | typed
