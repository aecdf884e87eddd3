"""The table of generation parameters: their names, ranges and defaults, for the page, the API and settings.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modules.errors import OptionError
from modules.events import Json
from modules.options import Option, Value, parse_all

_ALL = (
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

PARAMETERS: Mapping[str, Option] = {option.key: option for option in _ALL}


def settle(raw: Mapping[str, object], stops: Iterable[str] = (), top_logprobs: int | None = None) -> dict[str, Json]:
    """The parameters of one generation, complete: `raw` over the defaults. OptionError, UnknownOption.

    `stops` end the answer and are not shown. `top_logprobs` asks for log-probabilities, of that many candidates
    besides the chosen token; None asks for none.
    """
    values: dict[str, Value] = {key: option.default for key, option in PARAMETERS.items()}
    values |= parse_all(PARAMETERS, raw)
    return values | {"stop": _checked(stops), "top_logprobs": top_logprobs}


def _checked(stops: Iterable[str]) -> list[str]:
    listed = list(stops)
    for stop in listed:
        if not isinstance(stop, str) or not stop:
            raise OptionError("stop", stop, {"en": "texts that are not empty", "zh": "非空文本"})
    return listed
