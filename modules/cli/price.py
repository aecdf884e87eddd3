"""The command `server.py --price KEY=A,B`: measure what one value of an option costs, and print the result.

Exit status: 0 with a result, 1 if the measurement failed, 2 for invalid arguments, 130 after Ctrl-C. Stdout gets the
result alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from modules.app import App
from modules.cli.output import ProgressLine, print_json
from modules.core.errors import CommandLineError, Words
from modules.evaluation.price_request import MODEL, PriceRequest
from modules.evaluation.price_state import PriceState
from modules.evaluation.price_summary import price_text

_POLL_SECONDS = 0.2

_MODEL_MISSING: Words = {
    "en": "--price needs --model, to say with which model the option is measured.",
    "zh": "--price 需要与 --model 一起使用，以指明用哪个模型测量。",
}
_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "queued": "waiting",
        "quality": "perplexity with {value}",
        "measuring": "load {number}/{total}, {value}{left}",
        "left": ", about {seconds:.0f} s left",
    },
    "zh": {
        "queued": "等待中",
        "quality": "以 {value} 计算困惑度",
        "measuring": "加载 {number}/{total}，{value}{left}",
        "left": "，约剩 {seconds:.0f} 秒",
    },
}


def run(app: App, language: str) -> int:
    """Measure the price of `--price` and return the exit status.

    Raises the WebUIError of invalid arguments; KeyboardInterrupt stops the measurement first.
    """
    key, a, b = PriceRequest.split(app.flags.text("price"))
    if key != MODEL and app.named_model is None:
        raise CommandLineError(_MODEL_MISSING)
    model = app.named_model.name if app.named_model is not None else ""
    loader, options, pairs = app.flags.text("loader"), app.flags.load, app.flags.server["pairs"]
    request = PriceRequest.parse(key, a, b, model, loader, options, pairs, may_unload=True)
    try:
        id = app.prices.start(request)
        _follow(app, id, language)
    finally:
        app.prices.close()
        app.models.close()
    return _print_result(app, app.prices.find(id), language)


def _follow(app: App, id: str, language: str) -> None:
    """Print the progress until the measurement has ended."""
    progress, loads = ProgressLine(), ("", -1)
    while not app.prices.wait(id, _POLL_SECONDS):
        state = app.prices.find(id)
        is_new = progress.on_terminal or (state.phase, state.done) != loads  # elsewhere not each second that is left
        if is_new and progress.show(_progress(state, language)):
            loads = (state.phase, state.done)
    progress.end()


def _progress(state: PriceState, language: str) -> str:
    words = _WORDS[language]
    seconds = state.seconds_left
    left = words["left"].format(seconds=seconds) if seconds is not None else ""
    number = min(state.done + 1, state.total)
    return words.get(state.phase, "").format(value=state.value, number=number, total=state.total, left=left)


def _print_result(app: App, state: PriceState, language: str) -> int:
    if state.error is not None:
        print(state.error.say_elsewhere(language), file=sys.stderr)
    if state.result is None:
        return 1
    if app.flags.on("json"):
        print_json(state.result.to_json())
    else:
        print(price_text(state.result, language))
    return 0
