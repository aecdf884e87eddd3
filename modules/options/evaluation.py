"""Options of an evaluation of perplexity, as the page, the API and the command line take them."""

from __future__ import annotations

from collections.abc import Mapping

from modules.options.load_shared import LONGEST_CONTEXT
from modules.options.option import Option

METHOD = Option(
    "method",
    "method",
    "rolling",
    {"en": "Method", "zh": "方法"},
    {
        "en": "rolling scores every token once, with as much context as fits; chunks scores like llama-perplexity.",
        "zh": "rolling：每个词符计一次，使用能放下的全部上文；chunks：与 llama-perplexity 相同。",
    },
    choices=("rolling", "chunks"),
)
STRIDE = Option(
    "stride",
    "stride",
    512,
    {"en": "Stride", "zh": "步长"},
    {
        "en": "rolling: number of tokens by which the window moves. Fewer are slower, but give more context.",
        "zh": "rolling 时窗口每次前移的词符数；越小越慢，上文越长。",
    },
    minimum=1,
    maximum=LONGEST_CONTEXT,
)
MAX_LENGTH = Option(
    "max_length",
    "max-length",
    0,
    {"en": "Maximum length", "zh": "最大长度"},
    {
        "en": "Number of tokens in a window; 0 = the context length, at most 2048 (chunks: 512).",
        "zh": "每个窗口的词符数。0 表示上下文长度，最多 2048；chunks 时为 512。",
    },
    minimum=0,
    maximum=LONGEST_CONTEXT,
    least=4,
)
WINDOWS = Option(
    "windows",
    "windows",
    0,
    {"en": "Windows", "zh": "窗口数"},
    {"en": "Number of windows to score, from the beginning; 0 = all.", "zh": "只评估开头的若干个窗口。0 表示全部。"},
    minimum=0,
    maximum=1_000_000,
)
BOS = Option(
    "bos",
    "bos",
    "auto",
    {"en": "BOS", "zh": "BOS"},
    {
        "en": "Begin windows with BOS: auto = as the model does; first = only the first one (EOS if there is no BOS).",
        "zh": "窗口是否以 BOS 开头。auto：与模型一致；first：仅第一个窗口（无 BOS 时用 EOS）。",
    },
    choices=("auto", "always", "first", "never"),
)
KL = Option(
    "kl",
    "kl",
    False,
    {"en": "KL reference", "zh": "KL 参照"},
    {
        "en": "Compare the distributions of all models with those of the first one, on at most 16 windows.",
        "zh": "将各模型的概率分布与第一个模型比较，最多 16 个窗口。",
    },
)

EVALUATION: Mapping[str, Option] = {option.key: option for option in (METHOD, STRIDE, MAX_LENGTH, WINDOWS, BOS, KL)}
