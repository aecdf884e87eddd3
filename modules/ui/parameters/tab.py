"""The Parameters tab: how answers are generated. Shown is what the loaded loader has; presets are kept as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from modules.app import App
from modules.config.presets import NEUTRAL
from modules.core.events import Json
from modules.loaders import generation_settings
from modules.loaders.registry import LOADERS, Loader
from modules.options.generation import GROUPS, PARAMETERS, SUPPORTED_BY_ALL
from modules.options.option import Option
from modules.ui.gradio_import import gradio
from modules.ui.handlers import PRIVATE, Updates, Values, as_error
from modules.ui.locales import Tr, translator
from modules.ui.widgets import html
from modules.ui.widgets.option_form import Form, css_by_loader, grouped, slug

gr = gradio()


class ParametersTab:
    """Made inside a `gr.Tab`. `widgets` are the parameters' by their keys."""

    def __init__(self, app: App, language: str) -> None:
        self._app = app
        self._language = language
        self._tr: Tr = translator(language)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                self._build_presets()
            with gr.Column(scale=8, min_width=320, elem_classes="tx-card", elem_id="tx-params"):
                self._forms = [self._form(group, each) for group, each in grouped(PARAMETERS.values(), GROUPS).items()]
        self.widgets = {key: widget for form in self._forms for key, widget in form.widgets.items()}
        for key, value in self._first().items():
            self.widgets[key].value = value
        self._listen()

    # -- what it looks like -----------------------------------------------------------------------------------------

    def _build_presets(self) -> None:
        tr, owner = self._tr, not self._app.flags.on("multi_user")
        with gr.Column(elem_classes="tx-card"):
            self.preset = gr.Dropdown(
                choices=self._app.presets.names(),
                label=tr("preset"),
                info=tr("preset_info"),
                elem_id="tx-preset",
            )
            with gr.Row(elem_classes="tx-buttons"):
                self.neutral = gr.Button(tr("preset_neutral"), size="sm", elem_id="tx-preset-neutral")
                self.delete = gr.Button(tr("preset_delete"), interactive=owner, size="sm", elem_id="tx-preset-delete")
            with gr.Row(elem_classes="tx-row"):
                self.name = gr.Textbox(
                    label=tr("preset_name"), info=tr("preset_name_info"), max_lines=1, elem_id="tx-preset-name"
                )
                self.save = gr.Button(
                    tr("preset_save"), interactive=owner, size="sm", scale=0, min_width=110, elem_id="tx-preset-save"
                )
            self.line = gr.HTML("", elem_id="tx-preset-line")

    def _form(self, group: str, options: Sequence[Option]) -> Form:
        """The usual parameters stand open; each further group folds."""
        classes = {option.key: [f"gen-{slug(each.name)}" for each in _havers(option.key)] for option in options}
        here = sorted({name for names in classes.values() for name in names})
        folder: Any = nullcontext()
        if group != GROUPS[0]:
            title = self._tr(f"group_{group}")
            folder = gr.Accordion(title, open=False, elem_id=f"tx-gen-group-{group}", elem_classes=["tx-group", *here])
        with folder, gr.Column(elem_classes="tx-grid"):
            return Form(options, self._language, "tx-gen", classes)

    # -- what it does -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        drawing = [self.widgets[key] for key in NEUTRAL]
        form = {self.preset, self.name, *self.widgets.values()}
        told = {"queue": False, **PRIVATE}
        self.preset.input(self.choose, self.preset, [self.line, self.name, *drawing], **told)
        self.neutral.click(self.neutralise, None, [self.preset, self.line, *drawing], **told)
        self.save.click(self.keep, form, [self.preset, self.line], **told)
        self.delete.click(self.drop, self.preset, [self.preset, self.name, self.line], **told)
        self.on_page_load = (self.open_page, None, [self.preset, self.name, *drawing])

    def open_page(self) -> Updates:
        """The presets there are by now, and what to begin with; other pages and programs add to them."""
        names = self._app.presets.names()
        chosen = self._app.settings.current.preset if self._app.settings.current.preset in names else None
        first = {key: value for key, value in self._first().items() if key in NEUTRAL}
        return {self.preset: gr.update(choices=names, value=chosen), self.name: chosen or "", **self._written(first)}

    def _first(self) -> dict[str, Any]:
        return {key: option.default for key, option in PARAMETERS.items()} | self._app.settings.generation_defaults()

    def choose(self, name: object) -> Updates:
        """Show a preset's values, and begin with them the next time, too."""
        try:
            preset = self._app.presets.read(_text(name))
            if not self._app.flags.on("multi_user"):
                self._app.settings.set("preset", _text(name))
            return {
                self.line: html.info(self._unused(preset.values, preset.passed_over)),
                self.name: _text(name),
                **self._written(preset.values),
            }
        except Exception as error:
            return self._failed(error)

    def _unused(self, values: Mapping[str, object], unknown: Sequence[str]) -> str:
        """What in a preset has no effect, in a sentence; "" if all has."""
        status = self._app.models.status
        lacking = (
            without(generation_settings.changed(values), LOADERS[status.loader]) if status.state == "ready" else []
        )
        parts = [
            self._tr("preset_lacking").format(loader=status.loader, names=", ".join(lacking)) if lacking else "",
            self._tr("preset_unknown").format(names=", ".join(unknown)) if unknown else "",
        ]
        return " ".join(filter(None, parts))

    def neutralise(self) -> Updates:
        """Everything that presets set, set to nothing."""
        return {self.preset: None, self.line: "", **self._written(NEUTRAL)}

    def keep(self, given: Values) -> Updates:
        """Save the form's values under the name typed, or that of the preset chosen."""
        try:
            self._app.refuse_guests()
            name = _text(given[self.name]).strip() or _text(given[self.preset])
            aside = self._app.presets.save(name, self.read(given))
            self._app.settings.set("preset", name)
            text = self._tr("preset_saved").format(name=name)
            text += self._tr("kept_aside").format(file=aside.name) if aside else ""
            choices = gr.update(choices=self._app.presets.names(), value=name)
            return {self.preset: choices, self.line: html.info(text)}
        except Exception as error:
            return self._failed(error)

    def drop(self, name: object) -> Updates:
        """Delete the preset chosen; the form keeps its values."""
        try:
            self._app.refuse_guests()
            self._app.presets.delete(_text(name))
            self._app.settings.set("preset", "")
            text = self._tr("preset_deleted").format(name=_text(name))
            choices = gr.update(choices=self._app.presets.names(), value=None)
            return {self.preset: choices, self.name: "", self.line: html.info(text)}
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: BaseException) -> Updates:
        alert = html.alert(as_error(error), self._language, self._tr)
        return {self.line: alert, self.preset: gr.skip()}

    def _written(self, values: Mapping[str, Any]) -> Updates:
        return {self.widgets[key]: value for key, value in values.items()}

    # -- what it holds ----------------------------------------------------------------------------------------------

    def read(self, given: Values) -> dict[str, Any]:
        """The form's values; OptionError for what is none."""
        return {key: value for form in self._forms for key, value in form.read(given).items()}

    def params(self, given: Values, loader: Loader) -> dict[str, Json]:
        """The parameters of one answer. What the page does not show of a loader that lacks it is not asked for."""
        values = self.read(given)
        unseen = without(values, loader)
        return generation_settings.settle({key: value for key, value in values.items() if key not in unseen})


def without(keys: Iterable[str], loader: Loader) -> list[str]:
    """Those of `keys` that `loader` does not have."""
    return [key for key in keys if key not in loader.samplers | SUPPORTED_BY_ALL]


def _havers(key: str) -> list[Loader]:
    return [loader for loader in LOADERS.values() if not without([key], loader)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


PARAMETERS_CSS = css_by_loader('#tx-page:has(#tx-pill [data-loader="{name}"]) #tx-params', "gen")
"""The tab shows what the loaded model's loader has; the pill in the header tells which that is."""
