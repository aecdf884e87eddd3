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
        form = OptionForm(list(OPTIONS.values()), "zh", "t")
    defaults = {key: option.default for key, option in OPTIONS.items()}
    assert form.read(form.write(defaults)) == defaults
    with pytest.raises(OptionError):
        form.read({form.widgets["n_ctx"]: "many"})
