"""`--perplexity`: what goes to stdout and to stderr, exit statuses, and bad arguments."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.cli import perplexity
from modules.core.errors import CommandLineError, OptionError
from modules.evaluation.errors import TextNotFound, TextUnreadable
from modules.hub.errors import DownloadError
from tests.support.echo_models import use_echo
from tests.support.hub_server import HubServer

SLOW = "brief model.gguf"
"""Takes a second to load."""


@pytest.fixture
def evaluate(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command with these flags, on texts of digits; return its exit status."""
    use_echo(monkeypatch, tmp_path / "models", "good.gguf", "refuse it.gguf", SLOW)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "named.txt").write_text("1 2 3 " * 40)

    def run(text: str, *flags: str, model: str = "good.gguf", language: str = "en") -> int:
        chosen = ("--model", model) if model else ()
        return perplexity.run(
            make_app("--dataset-dir", str(tmp_path / "datasets"), *chosen, "--perplexity", text, *flags), language
        )

    return run


def test_json_goes_to_stdout_and_progress_to_stderr(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits.txt").write_text("1 2 3 " * 40)
    assert evaluate(str(tmp_path / "digits.txt"), "--max-length", "32", "--json", model=SLOW) == 0
    output, progress = capsys.readouterr()
    result = json.loads(output)
    assert result["perplexity"] == pytest.approx(math.exp(239 / 119)) and result["tokens"] == 119
    assert result["error"] > 0 and result["text"] == "digits.txt" and f"loading {SLOW}" in progress
    assert (tmp_path / "logs" / "evaluations.csv").is_file()


def test_a_name_means_a_text_of_the_folder_and_flags_are_followed(
    evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        evaluate("named", "--method", "chunks", "--max-length", "32", "--windows", "2", "--bos", "never", "--json") == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["method"], result["windows"], result["tokens"], result["max_length"]) == ("chunks", 2, 30, 32)


def test_without_json_it_is_a_few_lines_in_the_language_of_the_terminal(
    evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for language, word in (("en", "Perplexity  7.4"), ("zh", "困惑度  7.4")):
        with subtests.test(language=language):
            assert evaluate("named", language=language) == 0
            assert word in capsys.readouterr().out


def test_a_failure_is_a_sentence_and_status_1(
    evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("1")
    for text, model in (("named", "refuse it.gguf"), (str(tmp_path / "short.txt"), "good.gguf")):
        assert evaluate(text, model=model) == 1
        output, message = capsys.readouterr()
        assert output == "" and len(message) > 20 and "Traceback" not in message


def test_wikitext_is_fetched_through_the_mirror_if_it_is_missing(
    evaluate: Callable[..., int], served: HubServer, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError):  # this mirror does not have it
        evaluate("wikitext-2-test", "--hf-endpoint", served.url)
    assert served.requests("wikitext-2-raw-v1.zip")
    (tmp_path / "datasets" / "wikitext-2-test.txt").write_text("1 2 3 " * 40)
    assert evaluate("wikitext-2-test", "--hf-endpoint", served.url) == 0


def test_bad_arguments_are_refused_before_anything_is_loaded(evaluate: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(TextNotFound):
        evaluate("gone")
    with pytest.raises(TextUnreadable):
        evaluate(str(tmp_path / "bad.txt"))
    with pytest.raises(CommandLineError):
        evaluate("named", model="")
    with pytest.raises(OptionError):
        evaluate("named", "--stride", "33", "--max-length", "32")
