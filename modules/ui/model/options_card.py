"""The options of all loaders: a form with a filter, where each value says where it comes from and can be set back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.app import App
from modules.catalog.catalog import ModelRecord
from modules.core.errors import OptionError
from modules.loaders.availability import unavailable
from modules.loaders.load_settings import Setting
from modules.loaders.registry import LOADERS, Loader
from modules.options.load import OPTIONS
from modules.planning.recommendation import compatible_loaders
from modules.runtime.load_plan import LoadPlan
from modules.system import cpu_memory
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Updates, Values
from modules.ui.locales import Tr
from modules.ui.model.install_button import InstallButton
from modules.ui.widgets.option_form import Component, Form, css_by_loader, grouped, slug

gr = gradio()

CHANGED = ("form", "saved", "flag")
MOST_PRESETS = 5
SCRIPT = (Path(__file__).parent / "options.js").read_text(encoding="utf-8")


class OptionsCard:
    """Made inside the page. `shown` holds the model whose form this is and the values it was given, by which is known
    what the user touched; `reduced` an n_ctx that memory chose and nobody else, 0 if there is none."""

    def __init__(self, app: App, language: str, tr: Tr) -> None:
        self._app = app
        self._language = language
        self._tr = tr
        self.widgets: dict[str, Component] = {}
        with gr.Column(elem_classes="tx-card", elem_id="tx-opts"):
            with gr.Row(elem_classes="tx-row"):
                self.loader = gr.Dropdown(
                    choices=self._labelled(LOADERS.values()),
                    value="llama.cpp",
                    label=tr("loader"),
                    elem_id="tx-loader",
                    filterable=False,
                )
                self.filter = gr.Textbox(
                    label=tr("filter"), placeholder=tr("filter_hint"), max_lines=1, elem_id="tx-filter"
                )
            self.notes = gr.HTML("", elem_id="tx-notes")
            self.install = InstallButton(app, language, tr)
            self.marks = gr.HTML(marks(tr), elem_id="tx-marks", js_on_load=SCRIPT)
            self._build_groups()
        # With the form, and not in a State of the server's: at any moment the two have to be of the same model.
        self.shown = gr.JSON({}, visible=False)
        self.reduced = gr.Number(0, precision=0, visible=False)

    def _build_groups(self) -> None:
        classes = {
            key: [f"ld-{slug(loader.name)}" for loader in LOADERS.values() if key in loader.options] for key in OPTIONS
        }
        cores = self._tr("cores").format(physical=cpu_memory.physical_cores(), logical=cpu_memory.logical_cores())
        extra = {"threads": cores, "threads_batch": cores}
        if not self._app.consent.allowed:
            extra["trust_remote_code"] = self._tr("trust_by_flag")
        for group, options in grouped(OPTIONS.values()).items():
            used = sorted({name for option in options for name in classes[option.key]})
            with self._group(group, used), gr.Column(elem_classes="tx-grid"):
                self.widgets |= Form(options, self._language, "tx-opt", classes, extra).widgets
        self.widgets["trust_remote_code"].interactive = self._app.consent.allowed

    def _group(self, group: str, classes: list[str]) -> Any:
        if group == "common":
            return gr.Column(elem_classes=["tx-group", *classes])
        return gr.Accordion(
            self._tr(f"group_{group}"), open=False, elem_id=f"tx-group-{group}", elem_classes=["tx-group", *classes]
        )

    def _labelled(self, loaders: Iterable[Loader], model_format: str = "") -> list[tuple[str, str]]:
        missing = f" ({self._tr('unavailable')})"
        return [(each.name + missing if unavailable(each, model_format) else each.name, each.name) for each in loaders]

    # -- what it holds ----------------------------------------------------------------------------------------------

    def write(self, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting]) -> Updates:
        """What a handler returns to show the `settings` of a model, and the loaders to choose from, `loader` first."""
        able = [loader, *(each for each in compatible_loaders(record) if each is not loader)]
        return {
            self.shown: self.snapshot(record.name, settings),
            self.loader: gr.update(choices=self._labelled(able, record.format), value=loader.name),
            **self.fill(settings),
            **self._to_scale(record, settings),
        }

    def labelled_anew(self, given: Values) -> Updates:
        """The loaders to choose from, once one of them has become available."""
        record = self._record_shown(given)
        if record is None:
            return {self.loader: gr.skip()}
        return {self.loader: gr.update(choices=self._labelled(compatible_loaders(record), record.format))}

    def format_shown(self, given: Values) -> str:
        """Of the model whose options stand in the form; "" if there is none."""
        record = self._record_shown(given)
        return record.format if record else ""

    def _record_shown(self, given: Values) -> ModelRecord | None:
        shown = given.get(self.shown)
        name = shown.get("model") if isinstance(shown, dict) else None
        return self._app.record(name) if isinstance(name, str) else None

    def _to_scale(self, record: ModelRecord, settings: Mapping[str, Setting]) -> Updates:
        """Sliders that end where this model or machine does: 512 threads cannot be set by hand on a slider."""
        cores = cpu_memory.logical_cores()
        ends = {"threads": cores, "threads_batch": cores}
        if record.layers:
            ends["n_gpu_layers"] = record.layers + 1  # the output counts as one
        values = {key: int(settings[key].value) for key in ends}
        return {
            self.widgets[key]: gr.update(value=values[key], maximum=max(end, values[key])) for key, end in ends.items()
        }

    def fill(self, settings: Mapping[str, Setting]) -> Updates:
        """The same as if the user had typed them."""
        n_ctx = settings["n_ctx"]
        reduced = n_ctx.value if n_ctx.source == "memory" else 0
        return {self.reduced: reduced} | {self.widgets[key]: each.value for key, each in settings.items()}

    def snapshot(self, model: str, settings: Mapping[str, Setting]) -> dict[str, object]:
        return {"model": model, "values": {key: each.value for key, each in settings.items()}}

    def belongs(self, given: Values, model: str) -> bool:
        """Whether the form is that of `model`: of one just picked, the browser may not have it yet."""
        shown = given.get(self.shown)
        return isinstance(shown, dict) and shown.get("model") == model

    def touched(self, given: Values) -> dict[str, object]:
        """The values that the user has changed since the form was written, raw; an emptied field is an empty text."""
        shown = given.get(self.shown)
        values = shown.get("values") if isinstance(shown, dict) else None
        known: Mapping[str, object] = values if isinstance(values, dict) else {}
        by_memory = self.context_by_memory(given)
        return {
            key: "" if given[widget] is None else given[widget]
            for key, widget in self.widgets.items()
            if widget in given and given[widget] != known.get(key) and not (by_memory and key == "n_ctx")
        }

    def context_by_memory(self, given: Values) -> int:
        """The n_ctx that the form shows if memory chose it: nobody's wish, whatever was saved. Else 0."""
        reduced = given.get(self.reduced)
        return reduced if isinstance(reduced, int) and reduced == given.get(self.widgets["n_ctx"]) else 0

    def marked(self, plan: LoadPlan) -> Updates:
        """Where each value of `plan` comes from, as the form shows it."""
        sources = {key: each.source for key, each in plan.settings.items() if each.source != "default"}
        contexts = {key: _contexts(plan.record.context_length) for key in ("n_ctx", "max_seq_len")}
        return {self.marks: marks(self._tr, sources, presets=contexts, model=plan.record.name)}

    def refused(self, error: OptionError) -> Updates:
        """A value that is none, told at its field."""
        return {self.marks: marks(self._tr, errors={error.option: error.say(self._language)})}


def _contexts(most: int) -> list[int]:
    """Lengths to choose from with one click: powers of two, and the model's own."""
    usual = [1 << bits for bits in range(11, 21) if 1 << bits < most]
    return [*usual[-MOST_PRESETS:], most] if most else []


def marks(
    tr: Tr,
    sources: Mapping[str, str] = MappingProxyType({}),
    errors: Mapping[str, str] = MappingProxyType({}),
    presets: Mapping[str, Sequence[int]] = MappingProxyType({}),
    model: str = "",
) -> str:
    """What `options.js` puts at the fields: by option, the source of its value and its words, what is wrong, and values
    to choose from; by folded group, how many of its options somebody has changed."""
    changed = Counter(OPTIONS[key].group for key, source in sources.items() if source in CHANGED)
    told = {
        "reset": tr("reset"),
        "most": tr("preset_most"),
        "changed": tr("changed"),
        "sources": {key: [source, tr(f"source_{source}")] for key, source in sources.items()},
        "errors": dict(errors),
        "presets": dict(presets),
        "counts": dict(changed),
    }
    content = escape(json.dumps(told, ensure_ascii=False), quote=True)
    return f'<div hidden data-model="{escape(model, quote=True)}" data-marks="{content}"></div>'


SWITCH_LOADER = """(loader) => {
  const slug = String(loader).toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const page = document.querySelector("#tx-page"); // the tab itself may not be drawn yet
  for (const name of [...page.classList]) if (name.startsWith("show-")) page.classList.remove(name);
  page.classList.add("show-" + slug);
  document.dispatchEvent(new Event("tx-loader"));
}"""

FILTER = """(text) => document.dispatchEvent(new CustomEvent("tx-filter", { detail: String(text) }))"""

LOADER_CSS = css_by_loader("#tx-page.show-{name} #tx-opts", "ld")
"""The form shows what the loader chosen has."""
