"""Messages and sizes as HTML."""

from __future__ import annotations

import pytest

from modules.core.errors import both
from modules.core.worker_errors import LoadFailed
from modules.ui import locales
from modules.ui.widgets import messages


def test_a_long_error_is_folded_after_its_first_line() -> None:
    error = LoadFailed("llama.cpp", "x.gguf", "second\nthird", both("first"))
    html = messages.alert(error, "en", locales.translator("en"))
    assert html.index("first") < html.index("<details>") < html.index("second")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (4081004224, "4.08 GB"), (98_362_432, "98.4 MB"), (269_000_000_000, "269 GB")],
)
def test_decimal_sizes_have_three_digits(count: int, text: str) -> None:
    assert messages.decimal_size(count) == text
