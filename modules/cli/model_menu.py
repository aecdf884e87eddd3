"""`--model-menu`: the terminal asks which model to load."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence

from modules.app import App
from modules.catalog.catalog import Catalog, ModelRecord
from modules.core.errors import Unsupported, Words

_TITLE: Words = {"en": "The following models are available:", "zh": "可用的模型："}
_UNUSABLE: Words = {"en": "cannot be loaded: {why}", "zh": "无法加载：{why}"}
_WHICH: Words = {"en": "Which one do you want to load? 1-{last}", "zh": "要加载哪一个？请输入 1-{last}"}
_WRONG: Words = {"en": "Please type a number from 1 to {last}.", "zh": "请输入 1 到 {last} 之间的数字。"}
_NONE: Words = {
    "en": "--model-menu: {folder} holds no model that could be loaded.",
    "zh": "--model-menu：{folder} 中没有可加载的模型。",
}
_ENDED: Words = {
    "en": "--model-menu: the input ended before a model was chosen.",
    "zh": "--model-menu：输入已结束，未选择模型。",
}


def chosen(app: App, language: str) -> App:
    """`app` made anew as if `--model` had named what the user picks; `app` itself if `--model` did name one."""
    if app.named_model is not None:
        return app
    name = ask(app.catalog, language).name
    return App(dataclasses.replace(app.flags, server={**app.flags.server, "model": name}), app.cache)


def ask(catalog: Catalog, language: str) -> ModelRecord:
    """The model whose number is typed, asked for until it is one. Unsupported if there is none, or no more input."""
    records = catalog.models()
    sound = [record for record in records if record.problem is None]
    for line in _lines(records, language):
        _tell(line)
    if not sound:
        raise Unsupported({each: _NONE[each].format(folder=catalog.folder) for each in _NONE})
    _tell(_WHICH[language].format(last=len(sound)))
    while (number := _number()) not in range(1, len(sound) + 1):
        _tell(_WRONG[language].format(last=len(sound)))
    return sound[number - 1]


def _lines(records: Sequence[ModelRecord], language: str) -> Iterator[str]:
    """The menu. What cannot be loaded is shown with the reason and without a number."""
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


def _number() -> int:
    """What is typed, 0 if it is no number."""
    try:
        return int(input())
    except ValueError:
        return 0
    except EOFError:
        raise Unsupported(_ENDED) from None


def _tell(text: str) -> None:
    # Not on stdout: what `--explain` prints there is JSON, for programs.
    print(text, file=sys.stderr, flush=True)
