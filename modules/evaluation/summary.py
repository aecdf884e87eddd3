"""Results as JSON, for the API and the command line, and as a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modules.core.events import Json
from modules.evaluation.result_row import format_loras
from modules.evaluation.state import Evaluation
from modules.evaluation.statistics import Interval

_LINES: Mapping[str, str] = {
    "en": """{model} · {loader} · LoRAs: {loras}
Perplexity  {perplexity} ± {error}   ({method}, {windows} windows, {tokens} tokens, BOS: {bos})
± {token_error} if tokens were independent, as llama-perplexity counts
Bits per byte  {bits_per_byte}""",
    "zh": """{model} · {loader} · LoRA：{loras}
困惑度  {perplexity} ± {error}（{method}，{windows} 个窗口，{tokens} 个词符，BOS：{bos}）
若视各词符相互独立（与 llama-perplexity 相同）则为 ± {token_error}
每字节比特数  {bits_per_byte}""",
}
_NONE = {"en": "none", "zh": "无"}


def evaluation_json(result: Evaluation, language: str = "en") -> Json:
    """Return a result as a JSON object. Numbers that are not finite are null.

    `error` is the standard error by windows, `token_error` that of llama-perplexity; differences are in nats per token.
    """
    found, divergence = result.perplexity, result.divergence
    return {
        "id": result.id,
        "model": result.model,
        "loader": result.loader,
        "loras": dict(result.loras),
        "text": result.text,
        "perplexity": _finite(found.value),
        "error": _finite(found.error),
        "token_error": _finite(found.token_error),
        "tokens": found.tokens,
        "windows": found.windows,
        "bits_per_byte": _finite(result.bits_per_byte),
        "method": result.method,
        "stride": result.stride,
        "max_length": result.length,
        "bos": result.bos,
        "date": result.date,
        "seconds": round(result.seconds, 3),
        "hashes": dict(result.hashes),
        "reference": result.reference or None,
        "difference": _interval(result.difference),
        "not_compared": result.not_compared[language] if result.not_compared else None,
        "divergence": None
        if divergence is None
        else {
            "kl": _interval(divergence.kl),
            "kl_99": _finite(divergence.kl_99),
            "same_top": _interval(divergence.same_top),
            "windows": divergence.windows,
        },
    }


def evaluation_text(result: Evaluation, language: str) -> str:
    """Return a result as lines for a terminal."""
    found = result.perplexity
    loras = format_loras(result.loras) if result.loras else _NONE[language]
    return _LINES[language].format(
        model=result.model,
        loader=result.loader,
        loras=loras,
        perplexity=f"{found.value:.4f}",
        error=f"{found.error:.4f}",
        token_error=f"{found.token_error:.4f}",
        method=result.method,
        windows=found.windows,
        tokens=found.tokens,
        bos=result.bos or _NONE[language],
        bits_per_byte=f"{result.bits_per_byte:.4f}",
    )


def _interval(interval: Interval | None) -> Json:
    if interval is None:
        return None
    return {"mean": _finite(interval.mean), "low": _finite(interval.low), "high": _finite(interval.high)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
