"""The row of logs/evaluations.csv for a result."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modules.evaluation.state import Evaluation
from modules.evaluation.statistics import Interval


def result_cells(result: Evaluation) -> dict[str, str]:
    """Return the cells of a result by column; without a comment."""
    found = result.perplexity
    cells = {
        "Model": result.model,
        "LoRAs": format_loras(result.loras),
        "Dataset": result.text.removesuffix(".txt"),
        "Perplexity": _number(found.value),
        "stride": str(result.stride) if result.method == "rolling" else "",
        "max_length": str(result.length),
        "Date": result.date,
        "method": result.method,
        "bos": result.bos,
        "windows": str(found.windows),
        "tokens": str(found.tokens),
        "se": _number(found.error),
        "token_se": _number(found.token_error),
        "bits_per_byte": _number(result.bits_per_byte),
        "loader": result.loader,
        **result.hashes,
        "id": result.id,
        **_interval("difference", result.difference),
    }
    if result.divergence is not None:
        cells |= _interval("kl", result.divergence.kl)
        cells |= {"kl_99": _number(result.divergence.kl_99), "same_top": _number(result.divergence.same_top.mean)}
    if result.reference:
        cells["reference"] = result.reference
    return cells


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
