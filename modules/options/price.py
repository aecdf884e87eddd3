"""The option of measuring a price that the command line, the API and the page have in common."""

from __future__ import annotations

from modules.options.option import Option

QUICK_PAIRS = 3
PAIRS = Option(
    "pairs",
    "pairs",
    5,
    {"en": "Pairs of loads", "zh": "加载对数"},
    {
        "en": "With --price: how often both values are loaded and measured. More pairs give narrower intervals.",
        "zh": "配合 --price：两个值各加载并测量多少次。次数越多，区间越窄。",
    },
    minimum=2,
    maximum=50,
)
_UNPRICED = ("trust_remote_code",)


def is_priced(option: Option) -> bool:
    """Whether the page offers the price of a load option."""
    return option.key not in _UNPRICED and option.set_by == "anyone"
