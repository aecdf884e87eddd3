"""The table of generation parameters: the usual ones first, then those by group that fewer people set.

Keys and ranges are the original program's. Which loader takes which is said in `loaders`.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.options.generation_hf import TRANSFORMERS
from modules.options.generation_more import MORE, QUOTED
from modules.options.load_gpu import LONGEST_CONTEXT
from modules.options.option import Option

_USUAL = (
    Option(
        "max_new_tokens",
        "max_new_tokens",
        512,
        {"en": "Max new tokens", "zh": "最多新词符数"},
        {
            "en": "The answer ends after this many tokens; 0 lets it fill the context.",
            "zh": "回答最多生成这么多词符；0 表示直到填满上下文。",
        },
        minimum=0,
        maximum=32768,
    ),
    Option(
        "auto_max_new_tokens",
        "auto_max_new_tokens",
        False,
        {"en": "Answer until the context is full", "zh": "自动扩展最多新词符数"},
        {
            "en": "The answer may fill the context, whatever its greatest length is set to.",
            "zh": "无论最多新词符数是多少，回答都可以用满上下文。",
        },
    ),
    Option(
        "truncation_length",
        "truncation_length",
        0,
        {"en": "Truncate the prompt up to this length", "zh": "将提示词截断至此长度"},
        {
            "en": "A longer prompt loses its oldest messages. 0 = the whole context; each load sets it to that.",
            "zh": "更长的提示词会丢弃最早的消息。0 表示整个上下文；每次加载模型后自动设为其上下文长度。",
        },
        minimum=0,
        maximum=LONGEST_CONTEXT,
    ),
    Option(
        "temperature",
        "temperature",
        0.7,
        {"en": "Temperature", "zh": "温度"},
        {
            "en": "How freely tokens are drawn. 0 always takes the likeliest one.",
            "zh": "越高越随意；0 表示总取最可能的词符。",
        },
        minimum=0.0,
        maximum=5.0,
        step=0.01,
    ),
    Option(
        "top_p",
        "top_p",
        1.0,
        {"en": "top_p", "zh": "top_p"},
        {
            "en": "Keep the likeliest tokens that together reach this probability. 1 keeps all.",
            "zh": "只保留概率之和达到此值的最可能词符；1 为全部保留。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
    ),
    Option(
        "min_p",
        "min_p",
        0.05,
        {"en": "min_p", "zh": "min_p"},
        {
            "en": "Drop tokens less likely than this share of the likeliest one's probability.",
            "zh": "舍去概率低于“最高概率×此值”的词符。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
    ),
    Option(
        "top_k",
        "top_k",
        0,
        {"en": "top_k", "zh": "top_k"},
        {
            "en": "Keep only this many of the likeliest tokens. 0 keeps all.",
            "zh": "只保留最可能的这么多个词符；0 为全部保留。",
        },
        minimum=0,
        maximum=1000,
        step=1,
    ),
    Option(
        "repetition_penalty",
        "repetition_penalty",
        1.0,
        {"en": "Repetition penalty", "zh": "重复惩罚"},
        {"en": "Above 1, tokens that occurred become less likely.", "zh": "大于 1 时，出现过的词符更不易再出现。"},
        minimum=0.01,
        maximum=5.0,
        step=0.01,
    ),
    Option(
        "repetition_penalty_range",
        "repetition_penalty_range",
        1024,
        {"en": "Penalty range", "zh": "惩罚范围"},
        {
            "en": "The penalties look back over this many tokens. 0 means all of them.",
            "zh": "惩罚只看最近这么多个词符；0 表示全部。",
        },
        minimum=0,
        maximum=131072,
    ),
    Option(
        "frequency_penalty",
        "frequency_penalty",
        0.0,
        {"en": "Frequency penalty", "zh": "频率惩罚"},
        {"en": "Lowers a token once for each time it occurred.", "zh": "词符每出现一次就降低一次其概率。"},
        minimum=-2.0,
        maximum=2.0,
        step=0.05,
    ),
    Option(
        "presence_penalty",
        "presence_penalty",
        0.0,
        {"en": "Presence penalty", "zh": "存在惩罚"},
        {"en": "Lowers a token once if it occurred at all.", "zh": "词符只要出现过就降低一次其概率。"},
        minimum=-2.0,
        maximum=2.0,
        step=0.05,
    ),
    Option(
        "seed",
        "seed",
        -1,
        {"en": "Seed", "zh": "随机种子"},
        {
            "en": "The same seed draws the same answer. -1 takes a new one each time.",
            "zh": "相同的种子得到相同的回答；-1 表示每次随机。",
        },
        minimum=-1,
        maximum=2**32 - 2,
    ),
)

_TEXT = (
    Option(
        "custom_stopping_strings",
        "custom_stopping_strings",
        "",
        {"en": "Custom stopping strings", "zh": "自定义停止字符串"},
        {
            "en": "The answer ends before these texts. Each in quotes, separated by commas.",
            "zh": "回答到这些文本之前为止；以引号括起，用逗号分隔。",
        },
        pattern=QUOTED,
        example='"\\n", "\\nYou:"',
        group="text",
    ),
)

PARAMETERS: Mapping[str, Option] = {option.key: option for option in (*_USUAL, *MORE, *_TEXT, *TRANSFORMERS)}
"""Every parameter by its key, in the order in which they are shown."""

OF_EVERY_LOADER = frozenset(
    {"max_new_tokens", "auto_max_new_tokens", "truncation_length", *(option.key for option in _TEXT)}
)
"""Those that need no sampler: how long prompt and answer may be, and where an answer ends."""

ONLY_TRANSFORMERS = frozenset(option.key for option in TRANSFORMERS)
"""Those that the family of Transformers has and llama.cpp has not."""

GROUPS = ("common", "cut", "heat", "repeat", "limit", "text")
"""The groups in the order in which they are shown; the first stands open."""
