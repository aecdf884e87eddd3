"""Options as widgets: one widget each, always mounted. A loader shows its own by a CSS class, set in the browser."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modules.loaders.registry import LOADERS
from modules.options.option import Option, Value, parse_all
from modules.ui.gradio_import import gradio

gr = gradio()

Component = Any


def slug(name: str) -> str:
    """`name` as part of a CSS class: "llama.cpp" becomes "llama-cpp"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def css_by_loader(inside: str, prefix: str) -> str:
    """Hides, in the element `inside` (a selector with {name} for the loader whose options are to be seen), options and
    groups without that loader's class. None is ever forced to show, so that other rules may hide them."""
    rules = []
    for name in map(slug, LOADERS):
        element = inside.format(name=name)
        rules.append(f"{element} .tx-opt:not(.{prefix}-{name}), {element} .tx-group:not(.{prefix}-{name})")
    return ", ".join(rules) + " { display: none !important; }"


class Form:
    """The widgets of `options`, made where the constructor is called. `classes` adds CSS classes by option key."""

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
            shape = {
                "label": option.label[language],
                "info": _help(option, language, (extra_help or {}).get(option.key, "")),
                "elem_id": f"{prefix}-{option.key}",
                "elem_classes": ["tx-opt", *(classes or {}).get(option.key, ())],
            }
            self.widgets[option.key] = _widget(option, shape)

    def read(self, values: Mapping[Component, object]) -> dict[str, Value]:
        """The values of this form's widgets among those a handler got; OptionError for what is no value."""
        raw = {key: values[widget] for key, widget in self.widgets.items() if widget in values}
        return parse_all(self.options, {key: value for key, value in raw.items() if value is not None})

    def write(self, values: Mapping[str, Value]) -> dict[Component, object]:
        """What a handler returns to show `values`: those of other options stay as they are."""
        return {self.widgets[key]: value for key, value in values.items() if key in self.widgets}


def _help(option: Option, language: str, extra: str) -> str:
    """Its help, with its name as flags and files spell it wherever the label does not show it."""
    name = "" if option.label[language].replace("-", "_") == option.key else f"`{option.key}`"
    return " ".join(filter(None, (option.help[language], extra, name)))


def _widget(option: Option, shape: Mapping[str, Any]) -> Component:
    if isinstance(option.default, bool):
        return gr.Checkbox(value=option.default, **shape)
    if option.choices:
        return gr.Dropdown(choices=list(option.choices), value=option.default, filterable=False, **shape)
    if isinstance(option.default, str):
        lines = 8 if option.multiline else 1
        return gr.Textbox(value=option.default, max_lines=lines, placeholder=option.example, **shape)
    if option.step is not None and option.maximum is not None:
        limits = {"minimum": option.minimum, "maximum": option.maximum, "step": option.step}
        return gr.Slider(value=option.default, buttons=["reset"], **limits, **shape)
    precision = 0 if isinstance(option.default, int) else None
    # No limits here: the page would clip a wrong value in silence, the server names it.
    return gr.Number(value=option.default, precision=precision, **shape)


GROUPS = ("common", "memory", "context", "advanced")


def grouped(options: Iterable[Option], groups: Sequence[str] = GROUPS) -> dict[str, list[Option]]:
    """`options` by their group, in the order in which groups are shown."""
    listed = list(options)
    return {group: [option for option in listed if option.group == group] for group in groups}
