"""The command `server.py --perplexity TEXT.txt`: evaluate one model on a text, and print the result.

Exit status: 0 with a result, 1 if the evaluation failed, 2 for invalid arguments, 130 after Ctrl-C. Stdout gets the
result alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from modules.app import App
from modules.cli.output import ProgressLine, print_json
from modules.core.errors import CommandLineError, Words
from modules.evaluation import wikitext
from modules.evaluation.request import EvaluationRequest, Subject
from modules.evaluation.state import RunState, SubjectState
from modules.evaluation.summary import evaluation_json, evaluation_text
from modules.evaluation.texts import SUFFIX, EvaluationText, read_text
from modules.options.evaluation import EVALUATION

_POLL_SECONDS = 0.2

_MODEL_MISSING: Words = {
    "en": "--perplexity needs --model, to say which model is evaluated.",
    "zh": "--perplexity 需要与 --model 一起使用，以指明评估哪个模型。",
}
_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "queued": "waiting",
        "loading": "loading {model}",
        "tokenizing": "tokenizing",
        "evaluating": "window {done}/{total}, perplexity {perplexity:.4f}",
    },
    "zh": {
        "queued": "等待中",
        "loading": "正在加载 {model}",
        "tokenizing": "正在分词",
        "evaluating": "窗口 {done}/{total}，困惑度 {perplexity:.4f}",
    },
}


def run(app: App, language: str) -> int:
    """Evaluate the model of `--model` and return the exit status.

    Raises the WebUIError of invalid arguments; KeyboardInterrupt stops the evaluation first.
    """
    model = app.named_model
    if model is None:
        raise CommandLineError(_MODEL_MISSING)
    text = _text(app)
    values = app.flags.server
    options = {
        key: values[key] for key, option in EVALUATION.items() if values.get(key, option.default) != option.default
    }
    request = EvaluationRequest.parse(text.name, (Subject(model.name),), options, may_unload=True)
    try:
        id = app.evaluations.start(request, text)
        _follow(app, id, model.name, language)
    finally:
        app.evaluations.close()
        app.models.close()
    return _print_result(app, app.evaluations.find(id), language)


def _text(app: App) -> EvaluationText:
    """Read the text: a file of that path, else one of that name in the folder of texts. WikiText-2 is fetched first."""
    named = app.flags.text("perplexity")
    path = Path(named)
    if path.exists():
        return read_text(path)
    if named.removesuffix(SUFFIX) == wikitext.NAME.removesuffix(SUFFIX) and not app.texts.has(wikitext.NAME):
        wikitext.fetch_wikitext(app.mirrors, app.texts.folder)
    return app.texts.read(named)


def _follow(app: App, id: str, model: str, language: str) -> None:
    """Print the progress until the run has ended."""
    progress = ProgressLine()
    while not app.evaluations.wait(id, _POLL_SECONDS):
        progress.show(_progress(app.evaluations.find(id).subjects[0], model, language))
    progress.end()


def _progress(state: SubjectState, model: str, language: str) -> str:
    phase = "tokenizing" if state.phase == "evaluating" and not state.done else state.phase
    template = _WORDS[language].get(phase, "")
    return template.format(model=model, done=state.done, total=state.total, perplexity=state.perplexity)


def _print_result(app: App, state: RunState, language: str) -> int:
    subject = state.subjects[0]
    if subject.error is not None:
        print(subject.error.say_elsewhere(language), file=sys.stderr)
    if subject.result is None:
        return 1
    if app.flags.on("json"):
        print_json(evaluation_json(subject.result))
    else:
        print(evaluation_text(subject.result, language))
    return 0
