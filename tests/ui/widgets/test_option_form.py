"""Options as widgets."""

from __future__ import annotations

import pytest

from modules.core.errors import (
    OptionError,
)
from modules.options.load import OPTIONS
from tests.support.page_parts import page_parts


def test_every_option_has_a_widget_that_returns_its_value() -> None:
    from modules.ui.widgets.option_form import OptionForm

    with page_parts():
        made = OptionForm(list(OPTIONS.values()), "zh", "t")
    defaults = {key: option.default for key, option in OPTIONS.items()}
    assert made.read(made.write(defaults)) == defaults
    with pytest.raises(OptionError):
        made.read({made.widgets["n_ctx"]: "many"})
