"""Options as widgets, one widget per option and always mounted. CSS shows those of the loader in use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modules.loaders.registry import LOADERS
from modules.options.option import Option, Value, parse_all
from modules.ui.gradio_import import gradio

gr = gradio()

Component = Any

GROUPS = ("common", "memory", "context", "advanced", "obsolete")


def slug(name: str) -> str:
    """Return `name` as part of a CSS class: "llama.cpp" becomes "llama-cpp"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def css_by_loader(inside: str, prefix: str, names: Iterable[str] = tuple(LOADERS)) -> str:
    """Return a CSS rule that hides the options and groups without the class of the loader in use, one of `names`.

    `inside` is a selector that matches while the loader {name} is in use; an option's class is `prefix`-name. The rule
    never forces anything to show, so that other rules can hide more.
    """
    rules = []
    for name in map(slug, names):
        element = inside.format(name=name)
        rules.append(f"{element} .tx-opt:not(.{prefix}-{name}), {element} .tx-group:not(.{prefix}-{name})")
    return ", ".join(rules) + " { display: none !important; }"


def grouped(options: Iterable[Option], groups: Sequence[str] = GROUPS) -> dict[str, list[Option]]:
    """Return `options` by group, in the order in which groups are shown."""
    listed = list(options)
    return {group: [option for option in listed if option.group == group] for group in groups}


class OptionForm:
    """The widgets of `options`, created inside the current Gradio container.

    `classes` adds CSS classes and `extra_help` a sentence of help, by option key.
    """

    def __init__(
        self,
        options: Sequence[Option],
        language: str,
        prefix: str,
        classes: Mapping[str, Sequence[str]] | None = None,
        extra_help: Mapping[str, str] | None = None,
    ) -> None:
        self.options = {option.key: option for option in options}
        self.widgets: dict[str, Component] = {}
        for option in options:
            common = {
                "label": option.label[language],
                "info": _help(option, language, (extra_help or {}).get(option.key, "")),
                "elem_id": f"{prefix}-{option.key}",
                "elem_classes": ["tx-opt", *(classes or {}).get(option.key, ())],
            }
            self.widgets[option.key] = _widget(option, common)

    def read(self, values: Mapping[Component, object]) -> dict[str, Value]:
        """Return the valid values of this form's widgets among `values`. Raises OptionError for an invalid one."""
        raw = {key: values[widget] for key, widget in self.widgets.items() if widget in values}
        return parse_all(self.options, {key: value for key, value in raw.items() if value is not None})

    def write(self, values: Mapping[str, Value]) -> dict[Component, object]:
        """Return the updates that show `values`; widgets of other options keep theirs."""
        return {self.widgets[key]: value for key, value in values.items() if key in self.widgets}


def _help(option: Option, language: str, extra: str) -> str:
    """Return the option's help, with its key, as in flags and files, unless the label already shows it."""
    key = "" if option.label[language].replace("-", "_") == option.key else f"`{option.key}`"
    return " ".join(filter(None, (option.help[language], extra, key)))


def _widget(option: Option, common: Mapping[str, Any]) -> Component:
    if isinstance(option.default, bool):
        return gr.Checkbox(value=option.default, **common)
    if option.choices:
        return gr.Dropdown(choices=list(option.choices), value=option.default, filterable=False, **common)
    if isinstance(option.default, str):
        lines = 8 if option.multiline else 1
        return gr.Textbox(value=option.default, max_lines=lines, placeholder=option.example, **common)
    if option.step is not None and option.maximum is not None:
        limits = {"minimum": option.minimum, "maximum": option.maximum, "step": option.step}
        return gr.Slider(value=option.default, buttons=["reset"], **limits, **common)
    precision = 0 if isinstance(option.default, int) else None
    # Without limits: Gradio would silently clip an invalid value, while the server reports it.
    return gr.Number(value=option.default, precision=precision, **common)
