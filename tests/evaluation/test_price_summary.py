"""A price as lines for a terminal."""

from __future__ import annotations

import dataclasses
import math

from modules.evaluation.price_result import METRICS, Effect, PriceResult
from modules.evaluation.price_summary import METRIC_NAMES, price_text
from modules.evaluation.statistics import Interval

NAN = math.nan
EFFECTS = (
    Effect("perplexity", 18.115, 18.12, Interval(0.0003, -0.001, 0.0016)),
    Effect("memory", 200e6, 150e6, Interval(math.log(0.75), -0.3, -0.27)),
)
RESULT = PriceResult("1", "cache_8bit", "false", "true", "m.gguf", "llama.cpp", EFFECTS, pairs=5)


def test_every_figure_has_a_line_with_its_interval() -> None:
    head, perplexity, memory = price_text(RESULT, "en").splitlines()
    assert head == "m.gguf · llama.cpp · cache_8bit: false → true (5 pairs of loads; intervals of 95 %)"
    assert perplexity.endswith("+0.03 (-0.1 … +0.16) %   no difference seen")
    assert "200  →" in memory and "150" in memory and memory.endswith("-25 (-25.9 … -23.7) %")
    assert set(METRIC_NAMES) == set(METRICS)


def test_wide_intervals_are_written_out() -> None:
    wide = Effect("load_seconds", 1.283, 1.13, Interval(math.log(0.88), math.log(0.02), math.log(38.8)))
    text = price_text(PriceResult("1", "numa", "false", "true", "m", "llama.cpp", (wide,)), "en")
    assert text.endswith("-12 (-98 … +3780) %   no difference seen")


def test_chinese_names_are_aligned_by_their_width() -> None:
    lines = price_text(RESULT, "zh").splitlines()[1:]
    widths = {sum(2 if ord(character) > 0x2E7F else 1 for character in line.split("→")[0]) for line in lines}
    assert len(widths) == 1 and "未见差异" in lines[0]


def test_the_divergence_is_part_of_the_text() -> None:
    compared = dataclasses.replace(
        RESULT, kl=Interval(0.002, 0.001, 0.003), same_top=Interval(0.98, 0.975, 0.985), tokens=8000
    )
    last = price_text(compared, "en").splitlines()[-1]
    assert last.startswith("KL divergence 0.002 (0.001 … 0.003) nats") and "98 (97.5 … 98.5) % of 8000" in last
    assert "8000 个词符" in price_text(compared, "zh")


def test_doubts_are_part_of_the_text() -> None:
    effects = (Effect("perplexity", 18.1, 20.0, Interval(NAN, NAN, NAN)),)
    problem = {"en": "Other tokens.", "zh": ""}
    text = price_text(
        PriceResult("1", "model", "a", "b", "a", "llama.cpp", effects, quality_problem=problem, foreign_load=0.4), "en"
    )
    assert "Other tokens." in text and "Other programs used 40% of the processors" in text
    assert "nan" not in text
