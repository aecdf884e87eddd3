"""The table of generation parameters: the usual ones first, then those by group that fewer people set.

Keys and ranges are the original program's. Which loader takes which is said in `loaders`.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.load_options_gpu import LONGEST_CONTEXT
from modules.options import Option

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

_MORE = (
    Option(
        "typical_p",
        "typical_p",
        1.0,
        {"en": "Typical p", "zh": "典型采样"},
        {
            "en": "Keep the tokens whose surprise is nearest to the average, up to this probability. 1 keeps all.",
            "zh": "只保留信息量最接近平均值、概率之和达到此值的词符；1 为全部保留。",
        },
        minimum=0.01,
        maximum=1.0,
        step=0.01,
        group="cut",
    ),
    Option(
        "top_n_sigma",
        "top_n_sigma",
        0.0,
        {"en": "top_n_sigma", "zh": "top_n_sigma"},
        {
            "en": "Drop tokens this many standard deviations below the best one. 0 turns it off.",
            "zh": "舍去比最高分低这么多个标准差以上的词符；0 为不启用。",
        },
        minimum=0.0,
        maximum=5.0,
        step=0.05,
        group="cut",
    ),
    Option(
        "xtc_threshold",
        "xtc_threshold",
        0.1,
        {"en": "XTC threshold", "zh": "XTC 阈值"},
        {
            "en": "With XTC probability: of several tokens at least this likely, only the last stays.",
            "zh": "配合 XTC 概率：若有多个词符达到此概率，只留其中最低的一个。",
        },
        minimum=0.0,
        maximum=0.5,
        step=0.01,
        group="cut",
    ),
    Option(
        "xtc_probability",
        "xtc_probability",
        0.0,
        {"en": "XTC probability", "zh": "XTC 概率"},
        {
            "en": "How often the likeliest choices are taken away, for fresher wording. 0 turns it off.",
            "zh": "每个词符以此概率舍去最可能的选项，使文字更有新意；0 为不启用。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        group="cut",
    ),
    Option(
        "dynamic_temperature",
        "dynamic_temperature",
        False,
        {"en": "Dynamic temperature", "zh": "动态温度"},
        {
            "en": "The temperature follows how sure the model is: low when it is, high when it is not.",
            "zh": "温度随模型的把握而变：越有把握越低，越犹豫越高。",
        },
        group="heat",
    ),
    Option(
        "dynatemp_low",
        "dynatemp_low",
        1.0,
        {"en": "Lowest temperature", "zh": "最低温度"},
        {
            "en": "With dynamic temperature: the one at full certainty.",
            "zh": "配合动态温度：最有把握时的温度。",
        },
        minimum=0.01,
        maximum=5.0,
        step=0.01,
        group="heat",
    ),
    Option(
        "dynatemp_high",
        "dynatemp_high",
        1.0,
        {"en": "Highest temperature", "zh": "最高温度"},
        {
            "en": "With dynamic temperature: the one at full uncertainty.",
            "zh": "配合动态温度：最犹豫时的温度。",
        },
        minimum=0.01,
        maximum=5.0,
        step=0.01,
        group="heat",
    ),
    Option(
        "dynatemp_exponent",
        "dynatemp_exponent",
        1.0,
        {"en": "Dynamic temperature exponent", "zh": "动态温度指数"},
        {
            "en": "Above 1 the temperature stays nearer to the lowest, below 1 nearer to the highest.",
            "zh": "大于 1 时温度更偏向最低值，小于 1 时更偏向最高值。",
        },
        minimum=0.01,
        maximum=5.0,
        step=0.01,
        group="heat",
    ),
    Option(
        "mirostat_mode",
        "mirostat_mode",
        0,
        {"en": "Mirostat mode", "zh": "mirostat 模式"},
        {
            "en": "Keeps the surprise of the text steady, in place of all cuts: 0 = off, 1 and 2 its two versions.",
            "zh": "让文字的意外程度保持稳定，取代其他截断方式；0 为关闭，1 和 2 为两个版本。",
        },
        choices=(0, 1, 2),
        group="heat",
    ),
    Option(
        "mirostat_tau",
        "mirostat_tau",
        5.0,
        {"en": "Mirostat tau", "zh": "mirostat tau"},
        {
            "en": "With mirostat: the surprise to keep to. Lower is more orderly.",
            "zh": "配合 mirostat：目标意外程度，越低越规整。",
        },
        minimum=0.0,
        maximum=10.0,
        step=0.01,
        group="heat",
    ),
    Option(
        "mirostat_eta",
        "mirostat_eta",
        0.1,
        {"en": "Mirostat eta", "zh": "mirostat eta"},
        {
            "en": "With mirostat: how fast it adapts.",
            "zh": "配合 mirostat：调整的快慢。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        group="heat",
    ),
    Option(
        "dry_multiplier",
        "dry_multiplier",
        0.0,
        {"en": "DRY multiplier", "zh": "DRY 强度"},
        {
            "en": "Penalises tokens that would go on with a sequence seen before. 0 = off, 0.8 is usual.",
            "zh": "惩罚会延续已出现序列的词符；0 为不启用，常用 0.8。",
        },
        minimum=0.0,
        maximum=5.0,
        step=0.01,
        group="repeat",
    ),
    Option(
        "dry_base",
        "dry_base",
        1.75,
        {"en": "DRY base", "zh": "DRY 底数"},
        {
            "en": "The penalty grows by this factor with each further token of the sequence.",
            "zh": "序列越长惩罚越重：每多一个词符乘以此数。",
        },
        minimum=1.0,
        maximum=4.0,
        step=0.01,
        group="repeat",
    ),
    Option(
        "dry_allowed_length",
        "dry_allowed_length",
        2,
        {"en": "DRY allowed length", "zh": "DRY 允许长度"},
        {
            "en": "Repeating as many tokens as this costs nothing yet.",
            "zh": "不超过此长度的重复不受惩罚。",
        },
        minimum=1,
        maximum=20,
        step=1,
        group="repeat",
    ),
    Option(
        "dry_sequence_breakers",
        "dry_sequence_breakers",
        '"\\n", ":", "\\"", "*"',
        {"en": "DRY sequence breakers", "zh": "DRY 断开符"},
        {
            "en": "A sequence ends at these texts. Each in quotes, separated by commas.",
            "zh": "重复序列遇到这些文本即断开；以引号括起，用逗号分隔。",
        },
        pattern=r'"([^"\\]|\\.)+"(\s*,\s*"([^"\\]|\\.)+")*',
        example='"\\n", ":"',
        group="repeat",
    ),
    Option(
        "ban_eos_token",
        "ban_eos_token",
        False,
        {"en": "Ban the end token", "zh": "禁止结束词符"},
        {
            "en": "The model may not end its answer by itself; only the token limit does.",
            "zh": "不让模型自行结束，直到达到词符数上限。",
        },
        group="limit",
    ),
    Option(
        "custom_token_bans",
        "custom_token_bans",
        "",
        {"en": "Banned tokens", "zh": "禁用词符"},
        {
            "en": "Numbers of tokens that are never drawn, separated by commas.",
            "zh": "绝不使用的词符编号，用逗号分隔。",
        },
        pattern="\\d+(\\s*,\\s*\\d+)*",
        example="13,198",
        group="limit",
    ),
    Option(
        "grammar_string",
        "grammar_string",
        "",
        {"en": "Grammar", "zh": "语法"},
        {
            "en": "A GBNF grammar; the answer must follow its root rule.",
            "zh": "GBNF 语法：回答必须符合其 root 规则。",
        },
        multiline=True,
        group="limit",
    ),
)

PARAMETERS: Mapping[str, Option] = {option.key: option for option in (*_USUAL, *_MORE)}
"""Every parameter by its key, in the order in which they are shown."""

GROUPS = ("common", "cut", "heat", "repeat", "limit")
"""The groups in the order in which they are shown; the first stands open."""
