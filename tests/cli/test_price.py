"""The command --price, on the test engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.cli import price
from modules.core.errors import CommandLineError, ModelNotFound
from modules.evaluation.price_errors import NoPrice
from tests.support.echo_models import use_echo

TIMED, BROKEN = "timed model.gguf", "fail model.gguf"


@pytest.fixture
def start(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., App]:
    use_echo(monkeypatch, tmp_path / "models", TIMED, BROKEN)
    monkeypatch.setattr(price, "_POLL_SECONDS", 0.005)
    (tmp_path / "digits.txt").write_text("1 2 3 4 5 6 " * 40)
    return lambda *flags: make_app("--dataset-dir", str(tmp_path), "--pairs", "2", *flags)


def test_stdout_gets_one_json_object_and_stderr_the_progress(
    start: Callable[..., App], capsys: pytest.CaptureFixture[str]
) -> None:
    assert price.run(start("--model", TIMED, "--price", "numa", "--json"), "en") == 0
    printed = capsys.readouterr()
    body = json.loads(printed.out)
    assert (body["key"], body["a"], body["b"], body["pairs"]) == ("numa", "false", "true", 2)
    assert body["effects"]["decode_speed"]["percent"]["mean"] == pytest.approx(-50)
    assert re.search(r"^load \d/6, ", printed.err, re.MULTILINE)


def test_a_failed_measurement_ends_with_status_1_and_its_sentence(
    start: Callable[..., App], capsys: pytest.CaptureFixture[str]
) -> None:
    assert price.run(start("--model", BROKEN, "--price", "numa=true,true"), "en") == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "the echo engine will not" in printed.err


def test_invalid_arguments_are_reported_before_anything_is_loaded(start: Callable[..., App]) -> None:
    for flags, error in (
        (("--price", "numa"), CommandLineError),
        (("--model", TIMED, "--price", "n_batch=1"), NoPrice),
        (("--price", "model=missing,other"), ModelNotFound),
    ):
        with pytest.raises(error):
            price.run(start(*flags), "en")
