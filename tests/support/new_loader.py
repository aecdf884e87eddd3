"""The application with a new loader and a new option: `python -m tests.support.new_loader <folder> <option flags>`.

Adds one row to the registry, for the folder tests/support/echo_loader, and one row to a table of options, as
CONTRIBUTING.md describes; nothing else is changed. Loads the model in <folder> and prints a report as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, cast

from modules.options import load_llamacpp
from modules.options.option import Option

load_llamacpp.LLAMACPP += (
    Option(
        "repeat_times",
        "repeat-times",
        1,
        {"en": "Repetitions", "zh": "重复次数"},
        {"en": "How often the answer is repeated.", "zh": "回复重复的次数。"},
        minimum=1,
        maximum=9,
        step=1,
    ),
)

# The modules below build their tables from these rows when they are imported.
from modules.loaders import registry  # noqa: E402

row = registry.Loader(
    "Echo",
    engine="tests.support.echo_loader.loader",
    formats=("gguf",),
    options=("n_ctx", "repeat_times"),
    samplers=frozenset(),
    abilities=frozenset(),
    packages=(),
    install="",
)
cast(dict[str, registry.Loader], registry.LOADERS)[row.name] = row

from modules.app import App  # noqa: E402
from modules.config import flags  # noqa: E402
from modules.core.errors import OptionError  # noqa: E402
from modules.core.events import Text  # noqa: E402
from modules.core.prompt import Prompt  # noqa: E402
from modules.loaders import generation_settings  # noqa: E402
from modules.loaders.registry import LOADERS  # noqa: E402
from modules.options.load import OPTIONS  # noqa: E402
from modules.planning.load_request import LoadRequest  # noqa: E402
from scripts import docs_tables  # noqa: E402


def report(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Plan, explain, load, generate, save and unload; return the results of these steps."""
    settings = folder / "settings.yaml"
    settings.write_text("loader_gguf: Echo\n", encoding="utf-8")
    app = App(flags.parse(["--model-dir", str(folder), "--settings", str(settings), *arguments]))
    request = LoadRequest(app.catalog.models()[0])
    plan = app.planner.plan(request)
    explanation = app.loading.explain(plan)
    model = app.loading.load(plan)
    events = list(model.generate(Prompt("hello "), generation_settings.resolve({})))
    status = app.models.status.state
    app.planner.save(dataclasses.replace(request, form={"repeat_times": 4}))
    saved = app.model_settings.get(request.record.name)
    app.models.unload()
    return {
        "loader": plan.loader.name,
        "source": plan.settings["repeat_times"].source,
        "explanation": explanation,
        "answer": "".join(event.text for event in events if isinstance(event, Text)),
        "status": [status, app.models.status.state],
        "saved": dict(saved),
    }


def option_report() -> dict[str, Any]:
    """Return what follows from the option's row: loaders, validation, documentation, widget."""
    option = OPTIONS["repeat_times"]
    try:
        option.parse(10)
        message = ""
    except OptionError as error:
        message = error.say("en")
    return {
        "loaders": [loader.name for loader in LOADERS.values() if option.key in loader.options],
        "error": message,
        "documentation": next(line for line in docs_tables.load_options().splitlines() if "repeat-times" in line),
        "widget": widget(option),
    }


def widget(option: Option) -> dict[str, Any]:
    from modules.ui.gradio_import import gradio
    from modules.ui.widgets.option_form import OptionForm

    with gradio().Blocks():
        component = OptionForm([option], "en", "tx-opt").widgets[option.key]
    return {
        "type": type(component).__name__,
        "label": component.label,
        "info": component.info,
        "maximum": component.maximum,
    }


if __name__ == "__main__":
    print(json.dumps(report(Path(sys.argv[1]), sys.argv[2:]) | {"option": option_report()}))
