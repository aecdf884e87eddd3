"""The command `server.py --train RUN.yaml`: train one LoRA, or go on with the run of that name.

Exit status: 0 with a LoRA, 1 if the run failed, 2 for invalid arguments, 130 after Ctrl-C. Stdout gets the result
alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from modules.app import App
from modules.cli.output import ProgressLine, print_json
from modules.config.yaml_file import YamlFile
from modules.core.errors import CommandLineError
from modules.core.quotes import in_quotes
from modules.training.run import ENDED, RunView

_POLL_SECONDS = 0.3
_PHASES: Mapping[str, Mapping[str, str]] = {
    "en": {
        "starting": "starting",
        "weights": "loading {model}: {percent:.0f} %",
        "data": "tokenizing",
        "training": "update {update}/{updates}, loss {smoothed:.4f}, {left} left",
        "saving": "saving",
    },
    "zh": {
        "starting": "正在启动",
        "weights": "正在加载 {model}：{percent:.0f}%",
        "data": "正在分词",
        "training": "第 {update}/{updates} 次更新，损失 {smoothed:.4f}，剩余 {left}",
        "saving": "正在保存",
    },
}
_RESULTS: Mapping[str, str] = {
    "en": "{adapter}: {update} updates in {seconds:.0f} s, loss {smoothed:.4f}",
    "zh": "{adapter}：{update} 次更新，用时 {seconds:.0f} 秒，损失 {smoothed:.4f}",
}
_RESUME: Mapping[str, str] = {
    "en": "Interrupted. To go on: python server.py --train {name!r}",
    "zh": "已中断。继续训练：python server.py --train {name!r}",
}


def run(app: App, language: str) -> int:
    """Train and return the exit status. Raises the WebUIError of invalid arguments.

    Ctrl-C ends the run at once; it can be resumed from its last checkpoint.
    """
    runs = app.training.runs
    name = ""
    try:
        name = _start(app)
        view = _follow(app, name, language)
    except KeyboardInterrupt:
        runs.close()
        if name:
            print("\n" + _RESUME[language].format(name=name), file=sys.stderr)
        raise
    finally:
        runs.close()
        app.models.close()
    return _print_result(app, view, language)


def _start(app: App) -> str:
    named = app.flags.text("train")
    path = Path(named)
    if path.is_file():
        return app.training.start(YamlFile(path).read())
    if any(view.name == named for view in app.training.runs.snapshot()):
        app.training.runs.resume(named)
        return named
    raise CommandLineError(
        {
            "en": f"--train: {named!r} is neither a YAML file of parameters nor a run that could go on.",
            "zh": f"--train：{in_quotes(named)}既不是参数的 YAML 文件，也不是可继续的训练。",
        }
    )


def _follow(app: App, name: str, language: str) -> RunView:
    """Print the progress until the run has ended."""
    progress = ProgressLine()
    while True:
        view = app.training.runs.wait(name, _POLL_SECONDS)
        progress.show(_progress(view, language))
        if view.state in ENDED:
            break
    progress.end()
    return view


def _progress(view: RunView, language: str) -> str:
    if view.phase == "training" and view.seconds_left is None:  # before the first update, also of a resumed run
        return ""
    left = int(view.seconds_left or 0)
    return (
        _PHASES[language]
        .get(view.phase, "")
        .format(
            model=view.run.model,
            percent=100 * view.progress,
            update=view.update,
            updates=view.updates,
            smoothed=view.smoothed or 0.0,
            left=f"{left // 60}:{left % 60:02}",
        )
    )


def _print_result(app: App, view: RunView, language: str) -> int:
    if view.error is not None:
        print(view.error.say_elsewhere(language), file=sys.stderr)
    if app.flags.on("json"):
        print_json(view.to_json(language))
    elif view.adapter:
        figures = {"adapter": view.adapter, "update": view.update, "seconds": view.seconds}
        print(_RESULTS[language].format(**figures, smoothed=view.smoothed or 0.0))
    return 0 if view.adapter else 1
