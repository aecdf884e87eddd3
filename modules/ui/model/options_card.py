"""The options of all loaders: a form with a filter, in which each value shows its source and can be reset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.catalog.record import ModelRecord
from modules.core.errors import OptionError, UnknownLoader
from modules.loaders.availability import unavailable
from modules.loaders.load_settings import BY_USER, CONTEXT_KEYS, Setting
from modules.loaders.registry import LOADERS, Loader, find_loader
from modules.options.load import OPTIONS
from modules.options.price import is_priced
from modules.planning.recommendation import compatible_loaders
from modules.runtime.load_plan import LoadPlan
from modules.system import cpu_memory
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.locales import Tr
from modules.ui.model.install_button import InstallButton
from modules.ui.widgets.option_form import Component, OptionForm, css_by_loader, grouped, slug

gr = gradio()

SWITCH_LOADER = """(loader) => {
  const slug = String(loader).toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const page = document.querySelector("#tx-page"); // the tab itself may not be drawn yet
  for (const name of [...page.classList]) if (name.startsWith("show-")) page.classList.remove(name);
  page.classList.add("show-" + slug);
  document.dispatchEvent(new Event("tx-loader"));
}"""

FILTER = """(text) => document.dispatchEvent(new CustomEvent("tx-filter", { detail: String(text) }))"""

LOADER_CSS = css_by_loader("#tx-page.show-{name} #tx-opts", "ld")
"""Show the options of the loader picked."""

FORM_OPTIONS = {key: option for key, option in OPTIONS.items() if option.set_by != "files"}
_MAX_PRESETS = 5
_LAYER_WORDS = {0: "preset_none", -1: "preset_all"}
_SCRIPT = (Path(__file__).parent / "options.js").read_text(encoding="utf-8")


class OptionsCard:
    """The menu of loaders and the options, created inside the current Gradio container.

    `baseline` holds the model whose form this is and the values written to it, by which the user's changes are found.
    `fitted_n_ctx` holds the context length that the memory estimate chose, or 0 if it has another source. Both go to
    the browser and back with the form, because they must belong to the same model as the values.
    """

    def __init__(self, page: Page) -> None:
        self._app, self._language, self._tr, self._is_owner = page.app, page.language, page.tr, page.owner
        self.widgets: dict[str, Component] = {}
        with gr.Column(elem_classes="tx-card", elem_id="tx-opts"):
            self._build_menu()
            self.notes: Component = gr.HTML("", elem_id="tx-notes")
            self.install = InstallButton(page)
            self.marks: Component = gr.HTML(marks(self._tr), elem_id="tx-marks", js_on_load=_SCRIPT)
            self._build_groups()
        self.baseline: Component = gr.JSON({}, visible=False)
        self.fitted_n_ctx: Component = gr.Number(0, precision=0, visible=False)
        self.state = [self.baseline, self.fitted_n_ctx, *self.widgets.values()]

    def _build_menu(self) -> None:
        tr = self._tr
        first = next(loader.name for loader in LOADERS.values() if "gguf" in loader.formats)
        with gr.Row(elem_classes="tx-row"):
            self.loader: Component = gr.Dropdown(
                choices=self._labels(LOADERS.values()),
                value=first,
                label=tr("loader"),
                elem_id="tx-loader",
                filterable=False,
            )
            self.filter: Component = gr.Textbox(
                label=tr("filter"), placeholder=tr("filter_hint"), max_lines=1, elem_id="tx-filter"
            )

    def _build_groups(self) -> None:
        classes = {
            key: [f"ld-{slug(loader.name)}" for loader in LOADERS.values() if key in loader.options] for key in OPTIONS
        }
        cores = self._tr("cores").format(physical=cpu_memory.physical_cores(), logical=cpu_memory.logical_cores())
        extra = {"threads": cores, "threads_batch": cores}
        if not self._app.consent.allowed:
            extra["trust_remote_code"] = self._tr("trust_by_flag")
        for group, options in grouped(FORM_OPTIONS.values()).items():
            used = sorted({name for option in options for name in classes[option.key]})
            with self._group(group, used), gr.Column(elem_classes="tx-grid"):
                self.widgets |= OptionForm(options, self._language, "tx-opt", classes, extra).widgets
        self.widgets["trust_remote_code"].interactive = self._app.consent.allowed

    def _group(self, group: str, classes: list[str]) -> Any:
        if group == "common":
            return gr.Column(elem_classes=["tx-group", *classes])
        return gr.Accordion(
            self._tr(f"group_{group}"), open=False, elem_id=f"tx-group-{group}", elem_classes=["tx-group", *classes]
        )

    def _labels(self, loaders: Iterable[Loader], model_format: str = "") -> list[tuple[str, str]]:
        suffix = f" ({self._tr('unavailable')})"
        return [
            (loader.name + suffix if unavailable(loader, model_format) else loader.name, loader.name)
            for loader in loaders
        ]

    # -- write the form ---------------------------------------------------------------------------------------------

    def show_model(self, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting]) -> Updates:
        """Show the `settings` of a model, and the loaders that can load it, with `loader` picked."""
        loaders = [loader, *(other for other in compatible_loaders(record) if other is not loader)]
        return {
            self.baseline: self.baseline_of(record.name, settings),
            self.loader: gr.update(choices=self._labels(loaders, record.format), value=loader.name),
            **self.fill(settings),
            **self._slider_limits(record, settings),
        }

    def fill(self, settings: Mapping[str, Setting]) -> Updates:
        """Show `settings` as if the user had typed them."""
        settings, n_ctx = self._visible(settings), settings["n_ctx"]
        fitted = n_ctx.value if n_ctx.source == "memory" else 0
        shown = {widget: settings[key].value for key, widget in self.widgets.items() if key in settings}
        return {self.fitted_n_ctx: fitted} | shown

    def baseline_of(self, model: str, settings: Mapping[str, Setting]) -> dict[str, object]:
        """Return the value of `baseline` for these settings, without those of files, which browsers do not get."""
        values = {key: setting.value for key, setting in self._visible(settings).items() if key in self.widgets}
        return {"model": model, "values": values}

    def _visible(self, settings: Mapping[str, Setting]) -> Mapping[str, Setting]:
        """Return `settings`, for guests without what names machines, programs and their arguments."""
        if self._is_owner:
            return settings
        return {
            key: setting if OPTIONS[key].set_by == "anyone" else replace(setting, value=OPTIONS[key].default)
            for key, setting in settings.items()
        }

    def unchanged(self) -> Updates:
        """Leave all options as they are."""
        return {widget: gr.skip() for widget in self.widgets.values()}

    def refresh_loaders(self, values: Values) -> Updates:
        """Update the menu of loaders after one of them has become available."""
        record = self._record(values)
        if record is None:
            return {self.loader: gr.skip()}
        return {self.loader: gr.update(choices=self._labels(compatible_loaders(record), record.format))}

    def _slider_limits(self, record: ModelRecord, settings: Mapping[str, Setting]) -> Updates:
        """End sliders at the limits of this model and machine: up to 512 threads, none could be picked exactly."""
        cores = cpu_memory.logical_cores()
        limits = {"threads": cores, "threads_batch": cores}
        if record.layers:
            limits["n_gpu_layers"] = record.layers + 1  # the output layer counts as one
        values = {key: int(settings[key].value) for key in limits}
        return {
            self.widgets[key]: gr.update(value=values[key], maximum=max(limit, values[key]))
            for key, limit in limits.items()
        }

    # -- read the form ----------------------------------------------------------------------------------------------

    def loader_name(self, values: Values) -> str:
        """Return the name of the loader picked. Raises UnknownLoader if there is none."""
        name = values.get(self.loader)
        if not isinstance(name, str) or not name:
            raise UnknownLoader(str(name), "")
        return name

    def chosen_loader(self, values: Values) -> tuple[Loader, str]:
        """Return the loader picked and the format of the form's model, "" without one. Raises UnknownLoader."""
        record = self._record(values)
        return find_loader(self.loader_name(values)), record.format if record else ""

    def _record(self, values: Values) -> ModelRecord | None:
        """Return the model whose form this is."""
        baseline = values.get(self.baseline)
        name = baseline.get("model") if isinstance(baseline, dict) else None
        return self._app.record(name) if isinstance(name, str) else None

    def is_form_of(self, model: object, values: Values) -> bool:
        """Return whether the form is that of `model`; right after a pick, the browser still has the previous form."""
        baseline = values.get(self.baseline)
        return isinstance(baseline, dict) and baseline.get("model") == model

    def changed_values(self, values: Values, current: Mapping[str, Setting]) -> dict[str, object]:
        """Return the raw values that the user has changed since the form was written; "" for a field left empty.

        Those that the form still shows although they are no longer the model's `current` settings are returned too.
        """
        baseline = values.get(self.baseline)
        stored = baseline.get("values") if isinstance(baseline, dict) else None
        written: Mapping[str, object] = stored if isinstance(stored, dict) else {}
        fitted, visible = self.fitted_context(values), self._visible(current)
        return {
            key: "" if values[widget] is None else values[widget]
            for key, widget in self.widgets.items()
            if widget in values
            and not values[widget] == written.get(key) == visible[key].value
            and not (fitted and key == "n_ctx")
        }

    def fitted_context(self, values: Values) -> int:
        """Return the form's n_ctx if the memory estimate chose it, which makes it no choice of the user; else 0."""
        fitted = values.get(self.fitted_n_ctx)
        return fitted if isinstance(fitted, int) and fitted == values.get(self.widgets["n_ctx"]) else 0

    # -- mark the options -------------------------------------------------------------------------------------------

    def mark_sources(self, plan: LoadPlan) -> Updates:
        """Mark each option of `plan` with the source of its value."""
        shown = {key: setting for key, setting in plan.settings.items() if key in self.widgets}
        sources = {key: setting.source for key, setting in shown.items() if setting.source != "default"}
        contexts = {key: _context_presets(plan.record.context_length) for key in CONTEXT_KEYS}
        presets = {**contexts, "n_gpu_layers": list(_LAYER_WORDS)}
        priced = self._priced(plan)
        return {self.marks: marks(self._tr, sources, presets=presets, model=plan.record.name, priced=priced)}

    def _priced(self, plan: LoadPlan) -> Mapping[str, object]:
        """Return of which options the owner may measure the price, and with which values beside."""
        chosen = {key: setting.value for key, setting in plan.settings.items() if setting.source == "form"}
        may = not self._app.flags.on("multi_user") and not plan.record.task and not plan.loader.elsewhere
        keys = [key for key in plan.settings if is_priced(OPTIONS[key]) and OPTIONS[key].group != "obsolete"]
        return {"priced": keys if may else [], "values": chosen, "loader": plan.loader.name}

    def mark_error(self, error: OptionError, longest: int = 0) -> Updates:
        """Mark an invalid value at its field. `longest` is the context length that the model was trained with."""
        text = self._tr("enter").format(expected=error.expected[self._language])
        if error.option in CONTEXT_KEYS and longest:
            text = self._tr("enter_context").format(longest=longest)
        return {self.marks: marks(self._tr, errors={error.option: text})}


def _context_presets(longest: int) -> list[int]:
    """Return context lengths to pick with one click: powers of two below the model's own, then that."""
    usual = [1 << bits for bits in range(11, 21) if 1 << bits < longest]
    return [*usual[-_MAX_PRESETS:], longest] if longest else []


def marks(
    tr: Tr,
    sources: Mapping[str, str] = MappingProxyType({}),
    errors: Mapping[str, str] = MappingProxyType({}),
    presets: Mapping[str, Sequence[int]] = MappingProxyType({}),
    model: str = "",
    priced: Mapping[str, object] = MappingProxyType({}),
) -> str:
    """Render the data of `options.js`: sources, errors and preset values by option, and the number of changed options
    by folded group."""
    changed = Counter(OPTIONS[key].group for key, source in sources.items() if source in BY_USER)
    data = {
        "reset": tr("reset"),
        "most": tr("preset_most"),
        "changed": tr("changed"),
        "sources": {key: [source, tr(f"source_{source}")] for key, source in sources.items()},
        "errors": dict(errors),
        "presets": dict(presets),
        "words": {"n_gpu_layers": {value: tr(key) for value, key in _LAYER_WORDS.items()}},
        "counts": dict(changed),
        **priced,
    }
    content = escape(json.dumps(data, ensure_ascii=False), quote=True)
    return f'<div hidden data-model="{escape(model, quote=True)}" data-marks="{content}"></div>'
