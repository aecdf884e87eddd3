"""Invalid values are refused and marked at their fields; hidden parameters are listed."""

from __future__ import annotations

import pytest

from modules.core.errors import OptionError
from modules.loaders.registry import LOADERS
from modules.options.generation import SUPPORTED_BY_ALL
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.parameters.form import _unsupported_html
from tests.ui.parameters.conftest import MakeTab, report, shown_values

gr = gradio()


def test_an_invalid_number_is_marked_with_what_to_enter_and_refused(
    make_tab: MakeTab, subtests: pytest.Subtests
) -> None:
    tab, samplers = make_tab(), LOADERS["llama.cpp"].samplers
    for value in (-5, 999_999_999, None, 1.5, "x"):
        with subtests.test(value=value):
            values = shown_values(tab, max_new_tokens=value)
            errors = report(tab, tab.report(values))["errors"]
            assert list(errors) == ["max_new_tokens"]
            assert errors["max_new_tokens"].startswith("Enter a whole number from 0 to")
            with pytest.raises(OptionError):
                tab.params(values, samplers)
    assert report(tab, tab.report(shown_values(tab)))["errors"] == {}
    assert tab.params(shown_values(tab), samplers)["max_new_tokens"] == 512


def test_invalid_texts_are_marked_in_the_language_of_the_page(make_tab: MakeTab) -> None:
    tab = make_tab("zh")
    values = shown_values(tab, custom_token_bans="x", grammar_string='root ::= "a" |\n (', temperature=None)
    errors = report(tab, tab.report(values))["errors"]
    assert errors.keys() == {"custom_token_bans", "grammar_string", "temperature"}
    assert errors["temperature"] == "请输入 0 到 5 之间的数字。"
    assert errors["grammar_string"].startswith("语法第 2 行有误")


def test_an_invalid_value_is_not_kept(make_tab: MakeTab) -> None:
    tab = make_tab()
    kept = report(tab, tab.report(shown_values(tab, max_new_tokens=-5, top_k=7)))["kept"]
    assert kept == {"top_k": {"value": 7, "initial": 0}}


def test_an_invalid_value_that_the_loader_does_not_use_is_ignored(make_tab: MakeTab) -> None:
    tab, samplers = make_tab(), LOADERS["llama.cpp"].samplers
    unused = next(
        key
        for key, widget in tab.widgets.items()
        if key not in samplers | SUPPORTED_BY_ALL and isinstance(widget, gr.Number | gr.Slider)
    )
    for value in (None, -5):
        tab.params(shown_values(tab, **{unused: value}), samplers)


def test_the_parameters_that_a_loader_lacks_are_listed_by_name(make_tab: MakeTab) -> None:
    app = make_tab().app
    lists = _unsupported_html(Page(app, "en")).split("</details>")
    llama = next(text for text in lists if 'data-loader="llama-cpp"' in text)
    assert "parameters are not supported by llama.cpp" in llama
    assert "Tail-free" in llama or "tfs" in llama
    assert "Temperature," not in llama
    ollama = next(text for text in lists if 'data-loader="ollama"' in text)
    assert "parameters are not supported by Ollama" in ollama
    assert "DRY multiplier" in ollama and "Typical p" not in ollama
