"""The row of logs/evaluations.csv for a result."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modules.evaluation.state import Evaluation
from modules.evaluation.statistics import Interval
from modules.evaluation.windows import ROLLING


def result_cells(result: Evaluation) -> dict[str, str]:
    """Return the cells of a result by column; without a comment."""
    found = result.perplexity
    cells = identifying_cells(
        result.text, result.method, result.stride, result.length, result.bos, found.windows, result.hashes
    )
    cells |= {
        "Model": result.model,
        "LoRAs": format_loras(result.loras),
        "Perplexity": _number(found.value),
        "Date": result.date,
        "tokens": str(found.tokens),
        "se": _number(found.error),
        "token_se": _number(found.token_error),
        "bits_per_byte": _number(result.bits_per_byte),
        "loader": result.loader,
        "id": result.id,
        **_interval("difference", result.difference),
    }
    if result.divergence is not None:
        cells |= _interval("kl", result.divergence.kl)
        cells |= {"kl_99": _number(result.divergence.kl_99), "same_top": _number(result.divergence.same_top.mean)}
    if result.reference:
        cells["reference"] = result.reference
    return cells


def identifying_cells(
    text: str, method: str, stride: int, length: int, bos: str, windows: int, hashes: Mapping[str, str]
) -> dict[str, str]:
    """Return the cells in which a result must agree with a later evaluation, so that this one would repeat it."""
    return {
        "Dataset": text.removesuffix(".txt"),
        "method": method,
        "stride": str(stride) if method == ROLLING else "",
        "max_length": str(length),
        "bos": bos,
        "windows": str(windows),
        **hashes,
    }


def format_loras(loras: Mapping[str, float]) -> str:
    """Return names of LoRAs, with the weights that are not 1; "None" without any, as the original writes."""
    return ", ".join(name if weight == 1 else f"{name}:{weight:g}" for name, weight in loras.items()) or "None"


def _number(value: float) -> str:
    return f"{value:.9g}" if math.isfinite(value) else "" if math.isnan(value) else "inf"


def _interval(name: str, interval: Interval | None) -> dict[str, str]:
    if interval is None:
        return {}
    return {
        name: _number(interval.mean),
        f"{name}_low": _number(interval.low),
        f"{name}_high": _number(interval.high),
    }
