"""The widgets of the generation parameters, and what the page's script marks at them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from html import escape
from typing import Any

from modules.config import grammars
from modules.config.presets import NEUTRAL
from modules.core.errors import InvalidGrammar, OptionError, WebUIError
from modules.core.events import Json
from modules.loaders import generation_settings
from modules.loaders.registry import LOADERS
from modules.loaders.server_samplers import SERVER_NAMES, SERVER_SAMPLERS
from modules.options.generation import GROUPS, PARAMETERS, SUPPORTED_BY_ALL
from modules.options.option import Option, Value
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.widgets.option_form import Component, OptionForm, css_by_loader, grouped, slug

gr = gradio()

GRAMMAR = "grammar_string"

SAMPLER_SETS: Mapping[str, frozenset[str]] = {
    **{loader.name: loader.samplers for loader in LOADERS.values()},
    **SERVER_SAMPLERS,
}
"""The generation parameters of every loader, and of every kind of server, by its name."""

_LOADED = '#tx-page:has(#tx-pill [data-loader="{name}"]) #tx-params'
"""Matches the form while the loader of that name is in use; the header's pill names it."""

PARAMETERS_CSS = (
    css_by_loader(_LOADED, "gen", SAMPLER_SETS)
    + ".tx-unsupported { display: none; }"
    + ", ".join(
        f'{_LOADED.format(name=name)} .tx-unsupported[data-loader="{name}"]' for name in map(slug, SAMPLER_SETS)
    )
    + " { display: block; }"
)
"""Show the parameters that the loaded model's loader supports, and the list of those that it does not."""

_BRIDGE = """
window.txParameters = (request) => trigger("submit", request);
const tell = () => document.dispatchEvent(new CustomEvent("tx-parameters", { detail: JSON.parse(props.value) }));
watch("value", tell);
tell();
"""


class ParameterForm:
    """Created inside the current Gradio container. `widgets` are those of the parameters by key.

    `bridge` tells the page's script what to mark and what to keep, and has the event `submit` of its buttons.
    `after` adds components to the group of that name. `folds` are the groups that can be folded.
    """

    def __init__(self, page: Page, after: Mapping[str, Callable[[], object]] | None = None) -> None:
        self._page, self._app, self._after = page, page.app, after or {}
        groups = grouped(PARAMETERS.values(), GROUPS)
        self.folds: dict[str, Component] = {}
        self._group_keys = {group: [option.key for option in options] for group, options in groups.items()}
        self._forms = [self._group(group, options) for group, options in groups.items()]
        self.widgets = {key: widget for form in self._forms for key, widget in form.widgets.items()}
        for key, value in self.initial_values().items():
            self.widgets[key].value = value
        gr.HTML(_unsupported_html(page), elem_id="tx-gen-unsupported")
        self.bridge: Component = gr.HTML(
            "{}", html_template="<i></i>", js_on_load=_BRIDGE, elem_id="tx-gen-bridge", visible="hidden"
        )

    def _group(self, group: str, options: Sequence[Option]) -> OptionForm:
        """Create the widgets of a group: the first group is open, the others are folded."""
        classes = {option.key: [f"gen-{slug(name)}" for name in _supporting(option.key)] for option in options}
        used = sorted({name for names in classes.values() for name in names})
        fold: Any = nullcontext()
        if group != GROUPS[0]:
            title = self._page.tr(f"group_{group}")
            fold = gr.Accordion(title, open=False, elem_id=f"tx-gen-group-{group}", elem_classes=["tx-group", *used])
            self.folds[group] = fold
        with fold:
            with gr.Column(elem_classes="tx-grid"):
                form = OptionForm(options, self._page.language, "tx-gen", classes)
            if group in self._after:
                self._after[group]()
        return form

    def edits(self) -> list[Any]:
        """Return the events by which users change a value: of texts, when the field is left."""
        texts = [widget for widget in self.widgets.values() if isinstance(widget, gr.Textbox)]
        others = [widget for widget in self.widgets.values() if widget not in texts]
        return [event for widget in texts for event in (widget.blur, widget.submit)] + [
            *(widget.input for widget in others),
            self.widgets["truncation_length"].change,
        ]

    # -- values -----------------------------------------------------------------------------------------------------

    def initial_values(self) -> dict[str, Any]:
        """Return the values that a page begins with, apart from what its browser has kept."""
        values: dict[str, Any] = {key: option.default for key, option in PARAMETERS.items()}
        values |= self._app.settings.generation_defaults()
        status = self._app.models.status
        return values | ({"truncation_length": status.context_length} if status.state == "ready" else {})

    def show(self, values: Mapping[str, Any]) -> Updates:
        return {self.widgets[key]: value for key, value in values.items()}

    def raw(self, values: Values) -> dict[str, Any]:
        """Return what the widgets among `values` contain, by key; it may be invalid."""
        return {key: values[widget] for key, widget in self.widgets.items() if widget in values}

    def params(self, values: Values, samplers: frozenset[str]) -> dict[str, Json]:
        """Return the parameters of one answer: those that the page shows, which are `samplers` and those of all models.

        Raises OptionError for an invalid value, and for a number that was left empty.
        """
        shown = {key: raw for key, raw in self.raw(values).items() if not unsupported([key], samplers)}
        empty = [key for key, raw in shown.items() if raw is None and isinstance(self.widgets[key], gr.Number)]
        if empty:
            PARAMETERS[empty[0]].parse("")
        return generation_settings.resolve({key: raw for key, raw in shown.items() if raw is not None})

    # -- what the script marks and keeps -----------------------------------------------------------------------------

    def report(self, raw: Mapping[str, Any], preset: str) -> Updates:
        """Tell the script which of the values are invalid or differ from the preset, and what to keep of them."""
        errors = {key: text for key, value in raw.items() if (text := self._error(key, value))}
        valid = _valid(raw)
        shown = {
            "errors": errors,
            "changed": {key: _in_words(value) for key, value in self.changed(valid, preset).items()},
            "preset": preset,
            "groups": self._group_keys,
            "kept": self._kept(valid, preset),
        }
        return {self.bridge: json.dumps(shown, ensure_ascii=False)}

    def _error(self, key: str, value: object) -> str:
        """Return what to enter instead of an invalid value; "" for a valid one."""
        tr, language = self._page.tr, self._page.language
        try:
            parsed = PARAMETERS[key].parse("" if value is None else value)
            if key == GRAMMAR and parsed:
                grammars.check(str(parsed))
        except OptionError as error:
            return tr("enter").format(expected=error.expected[language])
        except InvalidGrammar as error:
            return error.say(language)
        return ""

    def changed(self, valid: Mapping[str, Value], preset: str) -> dict[str, Value]:
        """Return the preset's values where those of the form differ; nothing without a preset that can be read."""
        if not preset:
            return {}
        try:
            own = self._app.presets.read(preset).values
        except WebUIError:
            return {}
        return {key: own[key] for key in NEUTRAL if key in valid and valid[key] != own[key]}

    def _kept(self, valid: Mapping[str, Value], preset: str) -> dict[str, Json]:
        """Return what the browser keeps: what differs from the values that a page begins with, and those values."""
        initial = self.initial_values()
        kept: dict[str, Json] = {
            key: {"value": value, "initial": initial[key]} for key, value in valid.items() if value != initial[key]
        }
        if preset != self.initial_preset():
            kept["preset"] = {"value": preset, "initial": self.initial_preset()}
        return kept

    def initial_preset(self) -> str:
        """Return the preset that a page begins with, "" if there is none or it does not exist any more."""
        name = self._app.settings.current.preset
        return name if name in self._app.presets.names() else ""

    def recalled(self, kept: object) -> tuple[dict[str, Any], str]:
        """Return the values and the preset that a page begins with.

        They are those that the browser has kept, except for invalid ones and for those whose initial value has changed
        since, such as by settings.yaml.
        """
        entries = kept if isinstance(kept, dict) else {}
        values, preset = self.initial_values(), self.initial_preset()
        for key in PARAMETERS:
            entry = entries.get(key)
            if isinstance(entry, dict) and entry.get("initial") == values[key]:
                with suppress(OptionError):
                    values[key] = PARAMETERS[key].parse(entry.get("value"))
        entry = entries.get("preset")
        if isinstance(entry, dict) and entry.get("initial") == preset:
            preset = entry["value"] if entry.get("value") in self._app.presets.names() else ""
        return values, preset


def _valid(raw: Mapping[str, Any]) -> dict[str, Value]:
    """Return the values that are valid; a number that was left empty is not."""
    valid: dict[str, Value] = {}
    for key, value in raw.items():
        with suppress(OptionError):
            valid[key] = PARAMETERS[key].parse("" if value is None else value)
    return valid


def unsupported(keys: Iterable[str], samplers: frozenset[str]) -> list[str]:
    """Return the parameters among `keys` that a model with these samplers does not support."""
    return [key for key in keys if key not in samplers | SUPPORTED_BY_ALL]


def _supporting(key: str) -> list[str]:
    return [name for name, samplers in SAMPLER_SETS.items() if not unsupported([key], samplers)]


def _in_words(value: Value) -> str:
    """Return a value for the tooltip of a button."""
    return {True: "✓", False: "✗"}[value] if isinstance(value, bool) else str(value).replace("\n", ", ")


def _unsupported_html(page: Page) -> str:
    """Render a folded list of the hidden parameters for every loader and server. CSS shows that of the one in use."""
    lists = []
    for name, samplers in SAMPLER_SETS.items():
        if missing := unsupported(PARAMETERS, samplers):
            title = page.tr("gen_unsupported").format(loader=SERVER_NAMES.get(name, name), count=len(missing))
            names = page.tr("list_comma").join(PARAMETERS[key].label[page.language] for key in missing)
            lists.append(
                f'<details class="tx-unsupported" data-loader="{slug(name)}">'
                f"<summary>{escape(title)}</summary><p>{escape(names)}</p></details>"
            )
    return "".join(lists)
