"""The form of the defaults: every setting is there, saves are reported, and mistakes keep what was typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modules.app import App
from modules.config.presets import Presets
from modules.config.settings import OPTIONS
from modules.options.generation import PARAMETERS
from modules.ui.handlers import Page
from modules.ui.session.settings_card import MAX_TEXT, SettingsCard
from modules.ui.widgets.option_form import OptionForm
from tests.support.page_parts import AsCalled, page_parts


def typed(**fields: object) -> Any:
    """Return the event of a button in the form with these fields."""
    return SimpleNamespace(_data={"fields": fields})


@pytest.fixture
def make_card(make_app: Callable[..., App], tmp_path: Path) -> Callable[..., Any]:
    def make(*flags: str) -> Any:
        app = make_app(*flags)
        app.presets = Presets(tmp_path / "presets")
        with page_parts() as blocks:
            card = SettingsCard(Page(app, "en"))
            widgets = OptionForm([*PARAMETERS.values()], "en", "tx-gen").widgets
            card.listen(widgets)
        called: Any = AsCalled(blocks, card)
        called.widgets = widgets
        return called

    return make


def test_every_setting_is_in_the_form_with_its_source(make_card: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("seed: 7\n")
    card = make_card("--hf-endpoint", "https://mirror.example", "--loader", "llama.cpp")
    html = card.show()[card.part]
    assert all(f'name="{key}"' in html for key in OPTIONS)
    assert html.count('data-source="file"') == 1
    assert "Set by the command line at present: --hf-endpoint https://mirror.example." in html
    assert "Set by the command line at present: --loader llama.cpp." in html
    assert html.count('data-source="flag"') == 2
    assert "Undo the last save" not in html


def test_a_save_says_what_was_written_and_removed_and_can_be_undone(
    make_card: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("theme: dark\n")
    card = make_card()
    html = card.save(typed(theme="auto", autoload_model=True, max_new_tokens="300"))[card.part]
    assert file.read_text() == "autoload_model: true\nmax_new_tokens: 300\n"
    assert "Written to settings.yaml:" in html and "<code>max_new_tokens: 300</code>" in html
    assert "removed from settings.yaml:</p><ul><li><code>theme</code>" in html
    assert "Undid the last save." in card.undo()[card.part]
    assert file.read_text() == "theme: dark\n"
    assert "There is nothing to undo" in card.undo()[card.part]


def test_a_mistake_is_marked_and_keeps_what_was_typed(
    make_card: Callable[..., Any], tmp_path: Path, subtests: pytest.Subtests
) -> None:
    card = make_card()
    for fields, problem in (
        ({"max_new_tokens": "<many>", "name1": "Ann"}, "max_new_tokens: "),
        ({"no_such": "1"}, "There is no option"),
        ({"name1": "x" * (MAX_TEXT + 1)}, "at most 100000 characters"),
        ({"theme": "pink"}, "theme"),
        ({"hf_endpoint": "foo bar"}, "is not a valid download site"),
    ):
        with subtests.test(fields=list(fields)):
            html = card.save(typed(**fields))[card.part]
            assert 'role="alert"' in html and problem in html
            assert (tmp_path / "settings.yaml").read_text() == ""
    html = card.save(typed(max_new_tokens="<many>", name1="Ann"))[card.part]
    assert 'value="&lt;many&gt;"' in html and 'value="Ann"' in html and html.count('aria-invalid="true"') == 1


def test_what_is_no_form_changes_nothing(
    make_card: Callable[..., Any], tmp_path: Path, subtests: pytest.Subtests
) -> None:
    card = make_card()
    for data in (None, [], {"fields": []}, {"fields": {"seed": [1]}}, {"fields": {"seed": None}}):
        with subtests.test(data=data):
            assert "No changes to save" in card.save(SimpleNamespace(_data=data))[card.part]
    assert (tmp_path / "settings.yaml").read_text() == ""


def test_the_values_of_the_parameters_page_are_filled_in_and_not_yet_saved(
    make_card: Callable[..., Any], tmp_path: Path
) -> None:
    card = make_card()
    values = {widget: widget.value for widget in card.widgets.values()}
    values[card.widgets["temperature"]] = 1.25
    html = card.take_over(values, typed(name1="Ann"))[card.part]
    assert "from the defaults: 1. They" in html and 'value="1.25"' in html and 'value="Ann"' in html
    assert html.count(" data-edited") == 2 and (tmp_path / "settings.yaml").read_text() == ""


def test_guests_cannot_save(make_card: Callable[..., Any], tmp_path: Path) -> None:
    card = make_card("--multi-user")
    card.save(typed(seed="1"))
    assert (tmp_path / "settings.yaml").read_text() == ""


def test_a_file_that_cannot_be_read_is_shown_with_the_reason(make_card: Callable[..., Any], tmp_path: Path) -> None:
    card = make_card()
    (tmp_path / "settings.yaml").write_text("seed: [")
    html = card.show()[card.part]
    assert 'role="alert"' in html and "settings.yaml" in html and "<form" not in html
