"""The generation parameters, by the groups of the Parameters page. Keys and ranges are those of the original web UI.

`loaders/registry.py` says which loader supports which of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from modules.core.errors import Words
from modules.options import gbnf
from modules.options.load_shared import LONGEST_CONTEXT
from modules.options.option import Option, Value

SAMPLERS = (
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "dry"),
    *("encoder_repetition_penalty", "no_repeat_ngram", "temperature", "dynamic_temperature", "quadratic_sampling"),
    *("top_n_sigma", "top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "tfs", "top_a", "min_p"),
    *("mirostat", "xtc"),
)
"""The samplers by their names in `sampler_priority`, in the default order."""

_SAMPLER = f"({'|'.join(sorted(SAMPLERS, key=len, reverse=True))})"
_QUOTED = r'"([^"\\]|\\.)+"(\s*,\s*"([^"\\]|\\.)+")*'
"""JSON strings separated by commas: `"\\n", "You:"`."""

MAX_BREAKERS = 64
"""Sequence breakers of DRY at most. llama.cpp looks for each in the whole vocabulary, and answers nobody meanwhile."""


def _excess_breakers(text: str) -> Words | None:
    if len(re.findall(r'"(?:[^"\\]|\\.)+"', text)) > MAX_BREAKERS:
        return {"en": f"at most {MAX_BREAKERS} strings", "zh": f"最多 {MAX_BREAKERS} 个字符串"}
    return None


_COMMON = (
    Option(
        "max_new_tokens",
        "max_new_tokens",
        512,
        {"en": "Max new tokens", "zh": "最多新词符数"},
        {
            "en": "Maximum length of the answer in tokens; 0 = until the context is full.",
            "zh": "回复的最大长度（词符数）；0 表示直到填满上下文。",
        },
        minimum=0,
        maximum=LONGEST_CONTEXT,
    ),
    Option(
        "auto_max_new_tokens",
        "auto_max_new_tokens",
        False,
        {"en": "Use all remaining context", "zh": "回复可用满上下文"},
        {
            "en": "The answer may use the rest of the context; max new tokens is ignored.",
            "zh": "回复可用满剩余的上下文，忽略“最多新词符数”。",
        },
    ),
    Option(
        "truncation_length",
        "truncation_length",
        0,
        {"en": "Maximum prompt length", "zh": "提示词长度上限"},
        {
            "en": "The oldest messages are dropped from longer prompts. 0 = the context length, set on every load.",
            "zh": "提示词超出此长度时丢弃最早的消息。0 表示整个上下文；每次加载模型后自动设为其上下文长度。",
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
            "en": "Higher is more random; 0 always picks the most likely token.",
            "zh": "越高越随机；0 表示总取最可能的词符。",
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
            "en": "Keep the most likely tokens up to this cumulative probability. 1 = off.",
            "zh": "只保留累积概率达到此值的最可能词符；1 为不启用。",
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
            "en": "Discard tokens less likely than this fraction of the highest probability. 0 = off.",
            "zh": "舍去概率低于“最高概率×此值”的词符；0 为不启用。",
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
            "en": "Keep only this many of the most likely tokens. 0 = off.",
            "zh": "只保留最可能的这么多个词符；0 为不启用。",
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
        {
            "en": "Above 1, tokens that already occurred become less likely. 1 = off.",
            "zh": "大于 1 时，出现过的词符更不易再出现；1 为不启用。",
        },
        minimum=0.01,
        maximum=5.0,
        step=0.01,
    ),
    Option(
        "repetition_penalty_range",
        "repetition_penalty_range",
        1024,
        {"en": "Repetition penalty range", "zh": "重复惩罚范围"},
        {
            "en": "Number of most recent tokens that the penalties consider. 0 = all.",
            "zh": "惩罚只考虑最近这么多个词符；0 表示全部。",
        },
        minimum=0,
        maximum=131072,
    ),
    Option(
        "frequency_penalty",
        "frequency_penalty",
        0.0,
        {"en": "Frequency penalty", "zh": "频率惩罚"},
        {
            "en": "Subtracted from a token's logit once per occurrence. 0 = off.",
            "zh": "词符每出现一次，其 logit 就减去此值；0 为不启用。",
        },
        minimum=-2.0,
        maximum=2.0,
        step=0.05,
    ),
    Option(
        "presence_penalty",
        "presence_penalty",
        0.0,
        {"en": "Presence penalty", "zh": "存在惩罚"},
        {
            "en": "Subtracted once from the logit of every token that already occurred. 0 = off.",
            "zh": "词符只要出现过，其 logit 就减去此值一次；0 为不启用。",
        },
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
            "en": "The same seed gives the same answer; -1 = random.",
            "zh": "相同的种子得到相同的回复；-1 表示每次随机。",
        },
        minimum=-1,
        maximum=2**32 - 2,
    ),
)

_TRUNCATION = (
    Option(
        "typical_p",
        "typical_p",
        1.0,
        {"en": "Typical p", "zh": "典型采样"},
        {
            "en": "Keep the tokens with the most typical information content, up to this probability. 1 = off.",
            "zh": "只保留信息量最接近平均值、累积概率达到此值的词符；1 为不启用。",
        },
        minimum=0.01,
        maximum=1.0,
        step=0.01,
        group="truncation",
    ),
    Option(
        "top_n_sigma",
        "top_n_sigma",
        0.0,
        {"en": "top_n_sigma", "zh": "top_n_sigma"},
        {
            "en": "Discard tokens more than this many standard deviations below the highest logit. 0 = off.",
            "zh": "舍去 logit 比最高值低出这么多个标准差的词符；0 为不启用。",
        },
        minimum=0.0,
        maximum=5.0,
        step=0.05,
        group="truncation",
    ),
    Option(
        "xtc_threshold",
        "xtc_threshold",
        0.1,
        {"en": "XTC threshold", "zh": "XTC 阈值"},
        {
            "en": "With XTC probability: of all tokens at least this likely, keep only the least likely one.",
            "zh": "配合 XTC 概率：若有多个词符达到此概率，只留其中最低的一个。",
        },
        minimum=0.0,
        maximum=0.5,
        step=0.01,
        group="truncation",
    ),
    Option(
        "xtc_probability",
        "xtc_probability",
        0.0,
        {"en": "XTC probability", "zh": "XTC 概率"},
        {
            "en": "Probability of removing the most likely tokens at a step, for more varied wording. 0 = off.",
            "zh": "每一步以此概率舍去最可能的词符，使文字更有新意；0 为不启用。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        group="truncation",
    ),
    Option(
        "epsilon_cutoff",
        "epsilon_cutoff",
        0.0,
        {"en": "Epsilon cutoff", "zh": "epsilon 截断"},
        {
            "en": "Discard tokens less likely than this, in units of 1e-4. 3 to 9 is usual, 0 = off.",
            "zh": "舍去概率低于此值的词符，单位为 1e-4；常用 3 到 9，0 为不启用。",
        },
        minimum=0.0,
        maximum=9.0,
        step=0.01,
        group="truncation",
    ),
    Option(
        "eta_cutoff",
        "eta_cutoff",
        0.0,
        {"en": "Eta cutoff", "zh": "eta 截断"},
        {
            "en": "Like epsilon cutoff, with a lower bound when the model is uncertain. In units of 1e-4, 0 = off.",
            "zh": "与 epsilon 截断类似，但模型越不确定界限越低，单位为 1e-4；0 为不启用。",
        },
        minimum=0.0,
        maximum=20.0,
        step=0.01,
        group="truncation",
    ),
    Option(
        "tfs",
        "tfs",
        1.0,
        {"en": "Tail-free sampling", "zh": "无尾采样"},
        {
            "en": "Discard the tail where the probability curve flattens. 1 = off.",
            "zh": "无尾采样：在概率曲线趋平处截断；1 为不启用。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        group="truncation",
    ),
    Option(
        "top_a",
        "top_a",
        0.0,
        {"en": "top_a", "zh": "top_a"},
        {
            "en": "Discard tokens less likely than this times the square of the highest probability. 0 = off.",
            "zh": "舍去概率低于“此值×最高概率的平方”的词符；0 为不启用。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        group="truncation",
    ),
)

_TEMPERATURE = (
    Option(
        "dynamic_temperature",
        "dynamic_temperature",
        False,
        {"en": "Dynamic temperature", "zh": "动态温度"},
        {
            "en": "Adapt the temperature to the entropy: low when the model is certain, high when it is not.",
            "zh": "温度随模型的不确定程度（熵）变化：越确定越低，越不确定越高。",
        },
        group="temperature",
    ),
    Option(
        "dynatemp_low",
        "dynatemp_low",
        1.0,
        {"en": "Lowest temperature", "zh": "最低温度"},
        {
            "en": "With dynamic temperature: the temperature at zero entropy.",
            "zh": "配合动态温度：模型最确定时的温度。",
        },
        minimum=0.01,
        maximum=5.0,
        step=0.01,
        group="temperature",
    ),
    Option(
        "dynatemp_high",
        "dynatemp_high",
        1.0,
        {"en": "Highest temperature", "zh": "最高温度"},
        {
            "en": "With dynamic temperature: the temperature at maximum entropy.",
            "zh": "配合动态温度：模型最不确定时的温度。",
        },
        minimum=0.01,
        maximum=5.0,
        step=0.01,
        group="temperature",
    ),
    Option(
        "dynatemp_exponent",
        "dynatemp_exponent",
        1.0,
        {"en": "Dynamic temperature exponent", "zh": "动态温度指数"},
        {
            "en": "Above 1 the temperature stays closer to the lowest, below 1 closer to the highest.",
            "zh": "大于 1 时温度更偏向最低值，小于 1 时更偏向最高值。",
        },
        minimum=0.01,
        maximum=5.0,
        step=0.01,
        group="temperature",
    ),
    Option(
        "mirostat_mode",
        "mirostat_mode",
        0,
        {"en": "Mirostat mode", "zh": "mirostat 模式"},
        {
            "en": "Keep the perplexity of the text constant, instead of truncating: 0 = off, 1 and 2 = versions.",
            "zh": "让文字的困惑度保持稳定，取代其他截断方式；0 为不启用，1 和 2 为两个版本。",
        },
        choices=(0, 1, 2),
        group="temperature",
    ),
    Option(
        "mirostat_tau",
        "mirostat_tau",
        5.0,
        {"en": "Mirostat tau", "zh": "mirostat tau"},
        {
            "en": "With mirostat: the target surprise in bits. Lower is more focused.",
            "zh": "配合 mirostat：目标意外程度，越低越规整。",
        },
        minimum=0.0,
        maximum=10.0,
        step=0.01,
        group="temperature",
    ),
    Option(
        "mirostat_eta",
        "mirostat_eta",
        0.1,
        {"en": "Mirostat eta", "zh": "mirostat eta"},
        {
            "en": "With mirostat: the learning rate.",
            "zh": "配合 mirostat：学习率，即调整的快慢。",
        },
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        group="temperature",
    ),
    Option(
        "do_sample",
        "do_sample",
        True,
        {"en": "Sample", "zh": "随机采样"},
        {
            "en": "If off, the most likely token is always picked (greedy decoding).",
            "zh": "不勾选时每次都取最可能的词符（贪心解码）。",
        },
        group="temperature",
    ),
    Option(
        "smoothing_factor",
        "smoothing_factor",
        0.0,
        {"en": "Smoothing factor", "zh": "平滑系数"},
        {
            "en": "Quadratic sampling: low values flatten the likely tokens, high values sharpen them. 0 = off.",
            "zh": "二次采样：较低时拉平可能的词符，较高时更突出最可能的；0 为不启用。",
        },
        minimum=0.0,
        maximum=10.0,
        step=0.01,
        group="temperature",
    ),
    Option(
        "smoothing_curve",
        "smoothing_curve",
        1.0,
        {"en": "Smoothing curve", "zh": "平滑曲线"},
        {
            "en": "With the smoothing factor: above 1 the probability of unlikely tokens falls off more steeply.",
            "zh": "配合平滑系数：大于 1 时不太可能的词符下降更快。",
        },
        minimum=1.0,
        maximum=10.0,
        step=0.01,
        group="temperature",
    ),
    Option(
        "temperature_last",
        "temperature_last",
        False,
        {"en": "Temperature last", "zh": "最后应用温度"},
        {
            "en": "Apply temperature and smoothing after truncation instead of before.",
            "zh": "温度与平滑在所有截断之后应用，而不是之前。",
        },
        group="temperature",
    ),
    Option(
        "sampler_priority",
        "sampler_priority",
        "\n".join(SAMPLERS),
        {"en": "Sampler priority", "zh": "采样器顺序"},
        {
            "en": "One sampler per line, applied from top to bottom. Samplers not listed are applied first.",
            "zh": "每行一个，从先到后；未列出的最先应用。",
        },
        pattern=rf"{_SAMPLER}(\s*[\n,]\s*{_SAMPLER})*",
        example="temperature\ntop_k\ntop_p",
        multiline=True,
        group="temperature",
    ),
)

_REPETITION = (
    Option(
        "dry_multiplier",
        "dry_multiplier",
        0.0,
        {"en": "DRY multiplier", "zh": "DRY 强度"},
        {
            "en": "Penalizes tokens that would extend a sequence already in the context. 0 = off, 0.8 is usual.",
            "zh": "惩罚会延续已出现序列的词符；0 为不启用，常用 0.8。",
        },
        minimum=0.0,
        maximum=5.0,
        step=0.01,
        group="repetition",
    ),
    Option(
        "dry_base",
        "dry_base",
        1.75,
        {"en": "DRY base", "zh": "DRY 底数"},
        {
            "en": "The penalty is multiplied by this for every further token of the sequence.",
            "zh": "重复序列每多一个词符，惩罚就乘以此数。",
        },
        minimum=1.0,
        maximum=4.0,
        step=0.01,
        group="repetition",
    ),
    Option(
        "dry_allowed_length",
        "dry_allowed_length",
        2,
        {"en": "DRY allowed length", "zh": "DRY 允许长度"},
        {
            "en": "Sequences up to this many tokens may be repeated without a penalty.",
            "zh": "不超过此长度的重复不受惩罚。",
        },
        minimum=1,
        maximum=20,
        step=1,
        group="repetition",
    ),
    Option(
        "dry_sequence_breakers",
        "dry_sequence_breakers",
        '"\\n", ":", "\\"", "*"',
        {"en": "DRY sequence breakers", "zh": "DRY 断开符"},
        {
            "en": "Strings that end a sequence, in quotes and separated by commas.",
            "zh": "重复序列遇到这些文本即断开；以引号括起，用逗号分隔。",
        },
        pattern=_QUOTED,
        example='"\\n", ":"',
        excess=_excess_breakers,
        group="repetition",
    ),
    Option(
        "encoder_repetition_penalty",
        "encoder_repetition_penalty",
        1.0,
        {"en": "Encoder repetition penalty", "zh": "编码器重复惩罚"},
        {
            "en": "Above 1, tokens of the prompt become more likely, below 1 less likely. 1 = off.",
            "zh": "大于 1 时提示词中的词符更易出现，小于 1 时更不易出现；1 为不启用。",
        },
        minimum=0.8,
        maximum=1.5,
        step=0.01,
        group="repetition",
    ),
    Option(
        "no_repeat_ngram_size",
        "no_repeat_ngram_size",
        0,
        {"en": "No-repeat n-gram size", "zh": "禁止重复的 n-gram 长度"},
        {
            "en": "No sequence of this many tokens may occur twice. 0 = off.",
            "zh": "连续这么多个词符不得重复出现；0 为不启用。",
        },
        minimum=0,
        maximum=20,
        step=1,
        group="repetition",
    ),
)

_CONSTRAINTS = (
    Option(
        "ban_eos_token",
        "ban_eos_token",
        False,
        {"en": "Ban the EOS token", "zh": "禁用结束词符"},
        {
            "en": "The model cannot end its answer itself; it ends at the token limit.",
            "zh": "不让模型自行结束，直到达到词符数上限。",
        },
        group="constraints",
    ),
    Option(
        "custom_token_bans",
        "custom_token_bans",
        "",
        {"en": "Custom token bans", "zh": "自定义禁用词符"},
        {
            "en": "IDs of tokens that must not be sampled, separated by commas.",
            "zh": "不得采样的词符 ID，用逗号分隔。",
        },
        pattern="\\d+(\\s*,\\s*\\d+)*",
        example="13,198",
        group="constraints",
    ),
    Option(
        "grammar_string",
        "grammar_string",
        "",
        {"en": "Grammar", "zh": "语法"},
        {
            "en": "GBNF grammar; the answer must match its root rule.",
            "zh": "GBNF 语法：回复必须符合其 root 规则。",
        },
        multiline=True,
        excess=gbnf.excess,
        group="constraints",
    ),
    Option(
        "min_length",
        "min_length",
        0,
        {"en": "Min new tokens", "zh": "最少新词符数"},
        {
            "en": "Minimum length of the answer in tokens.",
            "zh": "回复的最小长度（词符数），此前模型不得结束。",
        },
        minimum=0,
        maximum=2000,
        step=1,
        group="constraints",
    ),
)

_TEXT = (
    Option(
        "custom_stopping_strings",
        "custom_stopping_strings",
        "",
        {"en": "Custom stopping strings", "zh": "自定义停止字符串"},
        {
            "en": "The answer ends before any of these strings. In quotes, separated by commas.",
            "zh": "回复到这些文本之前为止；以引号括起，用逗号分隔。",
        },
        pattern=_QUOTED,
        example='"\\n", "\\nYou:"',
        group="text",
    ),
    Option(
        "guidance_scale",
        "guidance_scale",
        1.0,
        {"en": "Guidance scale", "zh": "指导比例"},
        {
            "en": "CFG: above 1 the answer moves away from the negative prompt. 1 = off, 1.5 is usual.",
            "zh": "CFG：大于 1 时回复远离负面提示词；1 为不启用，常用 1.5。",
        },
        minimum=-0.5,
        maximum=2.5,
        step=0.05,
        group="text",
    ),
    Option(
        "negative_prompt",
        "negative_prompt",
        "",
        {"en": "Negative prompt", "zh": "负面提示词"},
        {
            "en": "With the guidance scale: the prompt to move away from.",
            "zh": "配合指导比例：要远离的提示词。",
        },
        multiline=True,
        group="text",
    ),
    Option(
        "add_bos_token",
        "add_bos_token",
        True,
        {"en": "Add the BOS token", "zh": "添加开头词符（BOS）"},
        {
            "en": "Start prompts with the beginning-of-sequence token, if the model has one.",
            "zh": "提示词以序列开始词符（BOS）开头（若模型有此词符）。",
        },
        group="text",
    ),
    Option(
        "skip_special_tokens",
        "skip_special_tokens",
        True,
        {"en": "Skip special tokens", "zh": "跳过特殊词符"},
        {
            "en": "Do not show special tokens in the answer. Some models need this off.",
            "zh": "回复中不显示特殊词符；个别模型需取消勾选。",
        },
        group="text",
    ),
    Option(
        "prompt_lookup_num_tokens",
        "prompt_lookup_num_tokens",
        0,
        {"en": "Prompt lookup tokens", "zh": "提示词查找"},
        {
            "en": "Draft up to this many tokens from earlier text: faster if the answer repeats parts of it. 0 = off. "
            "llama.cpp uses a draft only where it is faster.",
            "zh": "每次最多从前文预测这么多个词符，回复常重复前文时更快；0 为不启用。llama.cpp 仅在确有加速时采用。",
        },
        minimum=0,
        maximum=10,
        step=1,
        group="text",
    ),
)

_TABLE = (*_COMMON, *_TRUNCATION, *_TEMPERATURE, *_REPETITION, *_CONSTRAINTS, *_TEXT)

PARAMETERS: Mapping[str, Option] = {option.key: option for option in _TABLE}
"""Every generation parameter by its key, in the order of display."""

SUPPORTED_BY_ALL = frozenset({"max_new_tokens", "auto_max_new_tokens", "truncation_length", "custom_stopping_strings"})
"""Parameters that need no sampler: the lengths of prompt and answer, and the strings that end the answer."""

SWITCHES: Mapping[str, str] = {
    "dynatemp_low": "dynamic_temperature",
    "dynatemp_high": "dynamic_temperature",
    "dynatemp_exponent": "dynamic_temperature",
    "mirostat_tau": "mirostat_mode",
    "mirostat_eta": "mirostat_mode",
    "smoothing_curve": "smoothing_factor",
    "xtc_threshold": "xtc_probability",
    "dry_base": "dry_multiplier",
    "dry_allowed_length": "dry_multiplier",
    "dry_sequence_breakers": "dry_multiplier",
    "negative_prompt": "guidance_scale",
}
"""Parameters without effect while another one has its default."""

OFF: Mapping[str, Value] = {"temperature": 1.0, "min_p": 0.0}
"""Values without effect of the parameters whose defaults have one."""

GROUPS = ("common", "truncation", "temperature", "repetition", "constraints", "text")
"""The groups in the order of display; the first is not collapsible."""
