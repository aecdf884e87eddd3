"""A price as a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modules.core.errors import Words
from modules.core.text_width import columns
from modules.evaluation.price_result import Effect, PriceResult
from modules.evaluation.statistics import Interval

METRIC_NAMES: Mapping[str, Words] = {
    "perplexity": {"en": "Perplexity", "zh": "困惑度"},
    "memory": {"en": "Peak memory, MB", "zh": "内存峰值（MB）"},
    "gpu_memory": {"en": "GPU memory, MB", "zh": "显存（MB）"},
    "load_seconds": {"en": "Loading, s", "zh": "加载（秒）"},
    "prompt_speed": {"en": "Prompt, tokens/s", "zh": "读取提示词（词符/秒）"},
    "decode_speed": {"en": "Decoding, tokens/s", "zh": "解码（词符/秒）"},
}
UNSEEN: Words = {"en": "no difference seen", "zh": "未见差异"}

_LINES: Mapping[str, str] = {
    "en": "{model} · {loader} · {key}: {a} → {b} ({pairs} pairs of loads; intervals of 95 %)",
    "zh": "{model} · {loader} · {key}：{a} → {b}（{pairs} 对加载，95% 区间）",
}
_KL: Words = {
    "en": "KL divergence {kl} nats; both find the same token most likely at {same} % of {tokens} tokens",
    "zh": "KL 散度 {kl} 奈特；在 {tokens} 个词符中，两者最可能的词符有 {same}% 相同",
}
_DISTURBED: Words = {
    "en": "Other programs used {share:.0%} of the processors meanwhile: the speeds are doubtful. Close them and "
    "measure again.",
    "zh": "测量期间其他程序占用了 {share:.0%} 的处理器，速度结果不可靠。请关闭这些程序后重新测量。",
}


def price_text(result: PriceResult, language: str) -> str:
    """Return a price as lines for a terminal."""
    head = _LINES[language].format(
        model=result.model, loader=result.loader, key=result.key, a=result.a, b=result.b, pairs=result.pairs
    )
    lines = [head, *(_effect_line(effect, language) for effect in result.effects)]
    if result.kl is not None and result.same_top is not None:
        same = Interval(*(100 * value for value in (result.same_top.mean, result.same_top.low, result.same_top.high)))
        lines.append(_KL[language].format(kl=_with_ends(result.kl), same=_with_ends(same), tokens=result.tokens))
    if result.quality_problem:
        lines.append(result.quality_problem[language])
    if result.is_disturbed:
        lines.append(_DISTURBED[language].format(share=result.foreign_load))
    return "\n".join(lines)


def _effect_line(effect: Effect, language: str) -> str:
    scale = 10**6 if effect.metric.endswith("memory") else 1
    name = METRIC_NAMES[effect.metric][language]
    padding = " " * (24 - columns(name))
    values = f"{name}{padding}{effect.a / scale:>10.5g}  →{effect.b / scale:>10.5g}"
    if math.isnan(effect.change.mean):
        return values
    seen = "" if effect.is_seen else f"   {UNSEEN[language]}"
    return f"{values}   {_with_ends(effect.percent, sign='+')} %{seen}"


def _with_ends(interval: Interval, sign: str = "") -> str:
    mean, low, high = (_three_digits(value, sign) for value in (interval.mean, interval.low, interval.high))
    return mean if math.isnan(interval.low) else f"{mean} ({low} … {high})"


def _three_digits(value: float, sign: str) -> str:
    return f"{value:{sign}.0f}" if abs(value) >= 100 else f"{value:{sign}.3g}"
