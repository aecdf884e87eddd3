"""`--model-menu`: choose the model to load from a list in the terminal."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence

from modules.app import App
from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.core.errors import Unsupported, Words

_TITLE: Words = {"en": "The following models are available:", "zh": "可用的模型："}
_UNUSABLE: Words = {"en": "cannot be loaded: {why}", "zh": "无法加载：{why}"}
_PROMPT: Words = {"en": "Which one do you want to load? 1-{last}", "zh": "要加载哪一个？请输入 1-{last}"}
_INVALID: Words = {"en": "Please type a number from 1 to {last}.", "zh": "请输入 1 到 {last} 之间的数字。"}
_NO_MODELS: Words = {
    "en": "--model-menu: no model in {folder} can be loaded.",
    "zh": "--model-menu：{folder} 中没有可加载的模型。",
}
_END_OF_INPUT: Words = {
    "en": "--model-menu: the input ended before a model was chosen.",
    "zh": "--model-menu：输入已结束，未选择模型。",
}


def choose_model(app: App, language: str) -> App:
    """Return `app` recreated with the chosen model as `--model`; `app` itself if `--model` is set."""
    if app.named_model is not None:
        return app
    name = ask(app.catalog, language).name
    return App(dataclasses.replace(app.flags, server={**app.flags.server, "model": name}), app.cache)


def ask(catalog: Catalog, language: str) -> ModelRecord:
    """Print the models and read a number until it is valid.

    Raises Unsupported if no model can be loaded, or if the input ends.
    """
    records = catalog.models()
    loadable = [record for record in records if record.problem is None]
    for line in _menu(records, language):
        _print(line)
    if not loadable:
        raise Unsupported({key: text.format(folder=catalog.folder) for key, text in _NO_MODELS.items()})
    _print(_PROMPT[language].format(last=len(loadable)))
    while (number := _read_number()) not in range(1, len(loadable) + 1):
        _print(_INVALID[language].format(last=len(loadable)))
    return loadable[number - 1]


def _menu(records: Sequence[ModelRecord], language: str) -> Iterator[str]:
    """Yield the lines of the menu. Models that cannot be loaded have a reason instead of a number."""
    if records:
        yield _TITLE[language]
    number, width = 0, len(str(len(records)))
    for record in records:
        if record.problem is not None:
            why = record.problem.say(language)
            yield f"{'-':>{width}}  {record.name} ({_UNUSABLE[language].format(why=why)})"
        else:
            number += 1
            yield f"{number:>{width}}. {record.name}"


def _read_number() -> int:
    """Read a line; return 0 if it is not a number."""
    try:
        return int(input())
    except ValueError:
        return 0
    except EOFError:
        raise Unsupported(_END_OF_INPUT) from None


def _print(text: str) -> None:
    # To stderr, because `--explain` prints JSON to stdout.
    print(text, file=sys.stderr, flush=True)
