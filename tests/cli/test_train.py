"""The command --train: a run from a YAML file, its result, and going on with a run."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from modules.app import App
from modules.cli import train
from modules.core.errors import CommandLineError, OptionError
from modules.training.run import RunFacts, RunView
from modules.training.smoothing import MovingAverage
from tests.support.downloading import until
from tests.support.training_app import training_app

YAML = "model: {model}\nlora_name: a\ndataset: facts\nepochs: 2  # a comment\n"


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def test_a_file_of_parameters_trains_a_lora(
    make_app: Callable[..., App], tmp_path: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file.write_text(YAML.format(model="model"))
    app = training_app(make_app, tmp_path, "--train", str(run_file), "--json")
    assert train.run(app, "en") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["state"], printed["adapter"], printed["parameters"]["epochs"]) == ("finished", "a", 2)


def test_a_failed_run_is_told_by_the_status_and_goes_on_by_its_name(
    make_app: Callable[..., App], tmp_path: Path, run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file.write_text(YAML.format(model="die model"))
    app = training_app(make_app, tmp_path, "--train", str(run_file), model="die model")
    assert train.run(app, "zh") == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "SIGKILL" in printed.err
    app.flags = type(app.flags)({**app.flags.server, "train": "a"}, {})
    app.training.runs = type(app.training.runs)(tmp_path / "runs", tmp_path / "loras", "tests.support.echo_trainer")
    assert train.run(app, "en") == 0
    assert capsys.readouterr().out.startswith("a: 12 updates")


def test_what_is_no_run_is_refused(make_app: Callable[..., App], tmp_path: Path, run_file: Path) -> None:
    with pytest.raises(CommandLineError, match="neither"):
        train.run(training_app(make_app, tmp_path, "--train", "nothing.yaml"), "en")
    run_file.write_text(YAML.format(model="model") + "lora_rank: many\n")
    app = make_app("--train", str(run_file))
    with pytest.raises(OptionError, match="lora_rank"):
        train.run(app, "en")


def test_a_resumed_run_shows_no_time_until_its_first_update() -> None:
    facts = RunFacts("a", "m", "/m", "safetensors", "", "", 10, {}, {}, 0.0)
    view = RunView(facts, "running", phase="training", update=20, updates=60, average=MovingAverage().add(1.5))
    assert train._progress(view, "en") == ""
    assert train._progress(replace(view, seconds_left=61), "en") == "update 20/60, loss 1.5000, 1:01 left"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_ctrl_c_ends_the_run_and_says_how_it_goes_on(
    make_app: Callable[..., App], tmp_path: Path, run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_file.write_text(YAML.format(model="held model"))
    app = training_app(make_app, tmp_path, "--train", str(run_file), model="held model")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(train, "_POLL_SECONDS", 0.02)

    def interrupt() -> None:
        try:
            until(lambda: "update 5/12" in terminal.getvalue())
        finally:
            signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        train.run(app, "en")
    thread.join()
    *progress, last = terminal.getvalue().split("\n")[:-1]
    assert last == "Interrupted. To go on: python server.py --train 'a'"
    assert len(progress) == 1 and "\r\x1b[Kupdate 5/12, loss " in progress[0]
    assert [view.state for view in app.training.runs.snapshot()] == ["interrupted"]
